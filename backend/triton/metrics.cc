#include "backend/triton/metrics.h"

#include <algorithm>
#include <functional>
#include <mutex>

#include "backend/triton/triton_error.h"

namespace inflight::triton {

namespace {

using executor::EngineStats;
using Value = std::function<double(const EngineStats&)>;

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

std::vector<Family> families(const executor::EngineInfo& info) {
  const int max_requests = info.max_batch_size;
  const auto memory =
      static_cast<double>(info.weight_bytes_allocated + info.arena_bytes + info.kv_cache_bytes);
  const bool on_cpu = info.device == "cpu";
  return {
      {"nv_trt_llm_request_metrics",
       "Requests in the engine",
       "request_type",
       {{"active", [](const EngineStats& s) { return s.active_requests; }},
        {"max", [max_requests](const EngineStats&) { return max_requests; }},
        {"scheduled", [](const EngineStats& s) { return s.scheduled_requests; }},
        {"context", [](const EngineStats& s) { return s.context_requests; }},
        {"waiting",
         [](const EngineStats& s) {
           return std::max(0, s.active_requests - s.scheduled_requests);
         }}}},
      {"nv_trt_llm_runtime_memory_metrics",
       "Bytes held by the engine",
       "memory_type",
       {{"cpu", [=](const EngineStats&) { return on_cpu ? memory : 0.0; }},
        {"gpu", [=](const EngineStats&) { return on_cpu ? 0.0 : memory; }},
        {"pinned", [](const EngineStats&) { return 0; }}}},
      {"nv_trt_llm_kv_cache_block_metrics",
       "Blocks of the KV cache",
       "kv_cache_block_type",
       {{"max", [](const EngineStats& s) { return s.max_blocks; }},
        {"free", [](const EngineStats& s) { return s.free_blocks; }},
        {"used", [](const EngineStats& s) { return s.used_blocks; }},
        {"tokens_per", [](const EngineStats& s) { return s.tokens_per_block; }},
        {"reused", [](const EngineStats& s) { return s.reused_blocks; }},
        {"fraction",
         [](const EngineStats& s) {
           return s.max_blocks == 0 ? 0.0 : static_cast<double>(s.used_blocks) / s.max_blocks;
         }}}},
      {"nv_trt_llm_inflight_batcher_metrics",
       "The newest step",
       "inflight_batcher_specific_metric",
       {{"total_context_tokens", [](const EngineStats& s) { return s.context_tokens; }},
        {"generation_requests", [](const EngineStats& s) { return s.generation_requests; }},
        {"micro_batch_id", [](const EngineStats&) { return 0; }},
        {"paused_requests", [](const EngineStats& s) { return s.paused_requests; }}}},
      {"nv_trt_llm_general_metrics",
       "Progress of the engine",
       "general_type",
       {{"timestamp", [](const EngineStats& s) { return s.timestamp_us; }},
        {"iteration_counter", [](const EngineStats& s) { return s.iteration; }}}},
  };
}

using Label = std::unique_ptr<TRITONSERVER_Parameter, void (*)(TRITONSERVER_Parameter*)>;

Label make_label(const char* name, const std::string& value) {
  return Label(TRITONSERVER_ParameterNew(name, TRITONSERVER_PARAMETER_STRING, value.c_str()),
               TRITONSERVER_ParameterDelete);
}

}  // namespace

/// The server's families, in the order of families(); null: the server has no metrics.
///
/// All instances of the process share them. Gauges of equal labels are one in the server, and it
/// counts their users by family object: with a family each, a model that is loaded again while its
/// earlier load ends would go on setting gauges that went with that. It does not add and remove at
/// once safely either, hence the mutex.
struct Metrics::SharedFamilies {
  std::vector<TRITONSERVER_MetricFamily*> handles;

  SharedFamilies() = default;
  SharedFamilies(const SharedFamilies&) = delete;
  ~SharedFamilies() {
    for (TRITONSERVER_MetricFamily* family : handles)
      if (family != nullptr)
        log_if_error(TRITONSERVER_MetricFamilyDelete(family), "MetricFamilyDelete");
  }

  static std::mutex mutex;
  static std::weak_ptr<SharedFamilies> newest;  // under mutex; gone with the last instance
};
std::mutex Metrics::SharedFamilies::mutex;
std::weak_ptr<Metrics::SharedFamilies> Metrics::SharedFamilies::newest;

struct Metrics::Gauge {
  TRITONSERVER_Metric* metric;
  Value value;
};

Metrics::Metrics(const std::string& model, uint64_t version, const executor::EngineInfo& info) {
  const std::vector<Family> wanted = families(info);
  std::lock_guard lock(SharedFamilies::mutex);
  families_ = SharedFamilies::newest.lock();
  if (families_ == nullptr) {
    families_ = std::make_shared<SharedFamilies>();
    for (const Family& family : wanted) {
      TRITONSERVER_MetricFamily* handle = nullptr;
      log_if_error(TRITONSERVER_MetricFamilyNew(&handle, TRITONSERVER_METRIC_KIND_GAUGE,
                                                family.name, family.help),
                   "MetricFamilyNew");  // a server without metrics still serves
      families_->handles.push_back(handle);
    }
    SharedFamilies::newest = families_;
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    TRITONSERVER_MetricFamily* handle = families_->handles[i];
    if (handle == nullptr) continue;
    for (const Row& row : wanted[i].rows) {
      const Label labels[] = {make_label("model", model), make_label(wanted[i].label, row.category),
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
  std::lock_guard lock(SharedFamilies::mutex);
  for (const Gauge& gauge : gauges_)
    log_if_error(TRITONSERVER_MetricDelete(gauge.metric), "MetricDelete");
  families_.reset();
}

void Metrics::publish(const EngineStats& newest) {
  EngineStats stats = newest;
  if (stats.active_requests == 0) {  // that step was the last: what was in it is gone
    stats.scheduled_requests = stats.context_requests = stats.generation_requests = 0;
    stats.context_tokens = 0;
  }
  for (const Gauge& gauge : gauges_)
    log_if_error(TRITONSERVER_MetricSet(gauge.metric, gauge.value(stats)), "MetricSet");
}

}  // namespace inflight::triton
