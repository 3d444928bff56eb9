#include "backend/triton/metrics.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "backend/triton/triton_error.h"

namespace inflight::triton {

namespace {

using Stats = executor::EngineStats;
using Info = executor::EngineInfo;
using Value = double (*)(const Stats&, const Info&);

struct Row {
  const char* category;
  Value value;
};
struct Family {
  const char* name;
  const char* help;
  const char* label;
  std::vector<Row> rows;
};

double memory_of(const Info& info) {
  return static_cast<double>(info.weight_bytes_allocated + info.arena_bytes + info.kv_cache_bytes);
}

const std::vector<Family> kFamilies = {
    {"nv_trt_llm_request_metrics",
     "Requests in the engine",
     "request_type",
     {{"active", [](const Stats& s, const Info&) -> double { return s.active_requests; }},
      {"max", [](const Stats&, const Info& i) -> double { return i.max_batch_size; }},
      {"scheduled", [](const Stats& s, const Info&) -> double { return s.scheduled_requests; }},
      {"context", [](const Stats& s, const Info&) -> double { return s.context_requests; }},
      {"waiting",
       [](const Stats& s, const Info&) -> double {
         return std::max(0, s.active_requests - s.scheduled_requests);
       }}}},
    {"nv_trt_llm_runtime_memory_metrics",
     "Bytes held by the engine",
     "memory_type",
     {{"cpu", [](const Stats&, const Info& i) { return i.device == "cpu" ? memory_of(i) : 0; }},
      {"gpu", [](const Stats&, const Info& i) { return i.device == "cpu" ? 0 : memory_of(i); }},
      {"pinned", [](const Stats&, const Info&) -> double { return 0; }}}},
    {"nv_trt_llm_kv_cache_block_metrics",
     "Blocks of the KV cache",
     "kv_cache_block_type",
     {{"max", [](const Stats& s, const Info&) -> double { return s.max_blocks; }},
      {"free", [](const Stats& s, const Info&) -> double { return s.free_blocks; }},
      {"used", [](const Stats& s, const Info&) -> double { return s.used_blocks; }},
      {"tokens_per", [](const Stats& s, const Info&) -> double { return s.tokens_per_block; }},
      {"reused", [](const Stats& s, const Info&) { return static_cast<double>(s.reused_blocks); }},
      {"fraction",
       [](const Stats& s, const Info&) {
         return s.max_blocks == 0 ? 0.0 : static_cast<double>(s.used_blocks) / s.max_blocks;
       }}}},
    {"nv_trt_llm_inflight_batcher_metrics",
     "The newest step",
     "inflight_batcher_specific_metric",
     {{"total_context_tokens",
       [](const Stats& s, const Info&) -> double { return s.context_tokens; }},
      {"generation_requests",
       [](const Stats& s, const Info&) -> double { return s.generation_requests; }},
      {"micro_batch_id", [](const Stats&, const Info&) -> double { return 0; }},
      {"paused_requests",
       [](const Stats& s, const Info&) -> double { return s.paused_requests; }}}},
    {"nv_trt_llm_general_metrics",
     "Progress of the engine",
     "general_type",
     {{"timestamp",
       [](const Stats& s, const Info&) { return static_cast<double>(s.timestamp_us); }},
      {"iteration_counter",
       [](const Stats& s, const Info&) { return static_cast<double>(s.iteration); }}}},
};

using Label = std::unique_ptr<TRITONSERVER_Parameter, void (*)(TRITONSERVER_Parameter*)>;

Label make_label(const char* name, const std::string& value) {
  return Label(TRITONSERVER_ParameterNew(name, TRITONSERVER_PARAMETER_STRING, value.c_str()),
               TRITONSERVER_ParameterDelete);
}

}  // namespace

MetricFamilies::MetricFamilies() {
  for (const Family& family : kFamilies) {
    TRITONSERVER_MetricFamily* handle = nullptr;
    log_if_error(TRITONSERVER_MetricFamilyNew(&handle, TRITONSERVER_METRIC_KIND_GAUGE, family.name,
                                              family.help),
                 "MetricFamilyNew");  // a server without metrics still serves
    handles_.push_back(handle);
  }
}

MetricFamilies::~MetricFamilies() {
  for (TRITONSERVER_MetricFamily* family : handles_)
    if (family != nullptr)
      log_if_error(TRITONSERVER_MetricFamilyDelete(family), "MetricFamilyDelete");
}

struct Metrics::Gauge {
  TRITONSERVER_Metric* metric;
  Value value;
};

Metrics::Metrics(MetricFamilies& families, const std::string& model, uint64_t version, Info info)
    : families_(families), info_(std::move(info)) {
  std::lock_guard lock(families_.mutex_);
  for (size_t i = 0; i < kFamilies.size(); ++i) {
    TRITONSERVER_MetricFamily* handle = families_.handles_[i];
    if (handle == nullptr) continue;
    for (const Row& row : kFamilies[i].rows) {
      const Label labels[] = {make_label("model", model),
                              make_label(kFamilies[i].label, row.category),
                              make_label("version", std::to_string(version))};
      const TRITONSERVER_Parameter* pointers[] = {labels[0].get(), labels[1].get(),
                                                  labels[2].get()};
      TRITONSERVER_Metric* metric = nullptr;
      auto* error = TRITONSERVER_MetricNew(&metric, handle, pointers, 3);
      log_if_error(error, "MetricNew");
      if (metric != nullptr) gauges_.push_back({metric, row.value});
    }
  }
}

Metrics::~Metrics() {
  std::lock_guard lock(families_.mutex_);
  for (const Gauge& gauge : gauges_)
    log_if_error(TRITONSERVER_MetricDelete(gauge.metric), "MetricDelete");
}

void Metrics::publish(const Stats& newest) {
  Stats stats = newest;
  if (stats.active_requests == 0) {  // that step was the last: what was in it is gone
    stats.scheduled_requests = stats.context_requests = stats.generation_requests = 0;
    stats.context_tokens = 0;
  }
  for (const Gauge& gauge : gauges_)
    log_if_error(TRITONSERVER_MetricSet(gauge.metric, gauge.value(stats, info_)), "MetricSet");
}

}  // namespace inflight::triton
