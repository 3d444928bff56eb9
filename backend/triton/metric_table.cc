#include "backend/triton/metric_table.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <string_view>

namespace inflight::triton {

namespace {

using Stats = executor::EngineStats;
using Info = executor::EngineInfo;

double memory_of(const Info& info) {
  return static_cast<double>(info.weight_bytes_allocated + info.arena_bytes + info.kv_cache_bytes);
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

double zero(const Stats&, const Info&) { return 0; }

double context_tokens(const Stats& s, const Info&) { return s.context_tokens; }

constexpr const char* kTimestamp = "Timestamp";

const std::vector<NumberFamily> kShared = {
    {"nv_trt_llm_request_metrics",
     "Requests in the engine",
     "request_type",
     false,
     {{"active", "Active Request Count",
       [](const Stats& s, const Info&) -> double { return s.active_requests; }},
      {"max", "Max Request Count",
       [](const Stats&, const Info& i) -> double { return i.max_batch_size; }},
      {"scheduled", "Scheduled Requests",
       [](const Stats& s, const Info&) -> double { return s.scheduled_requests; }},
      {"context", "Context Requests",
       [](const Stats& s, const Info&) -> double { return s.context_requests; }},
      {"waiting", "Waiting Requests",
       [](const Stats& s, const Info&) -> double {
         return std::max(0, s.active_requests - s.scheduled_requests);
       }}}},
    {"nv_trt_llm_runtime_memory_metrics",
     "Bytes held by the engine",
     "memory_type",
     false,
     {{"cpu", "Runtime CPU Memory Usage",
       [](const Stats&, const Info& i) { return i.device == "cpu" ? memory_of(i) : 0; }},
      {"gpu", "Runtime GPU Memory Usage",
       [](const Stats&, const Info& i) { return i.device == "cpu" ? 0 : memory_of(i); }},
      {"pinned", "Runtime Pinned Memory Usage",
       [](const Stats&, const Info& i) { return static_cast<double>(i.pinned_bytes); }}}},
    {"nv_trt_llm_kv_cache_block_metrics",
     "Blocks of the KV cache",
     "kv_cache_block_type",
     false,
     {{"max", "Max KV cache blocks",
       [](const Stats& s, const Info&) { return static_cast<double>(s.max_blocks); }},
      {"free", "Free KV cache blocks",
       [](const Stats& s, const Info&) { return static_cast<double>(s.free_blocks); }},
      {"used", "Used KV cache blocks",
       [](const Stats& s, const Info&) { return static_cast<double>(s.used_blocks); }},
      {"tokens_per", "Tokens per KV cache block",
       [](const Stats& s, const Info&) -> double { return s.tokens_per_block; }},
      {"reused", "Reused KV cache blocks",
       [](const Stats& s, const Info&) { return static_cast<double>(s.reused_blocks); }},
      {"fraction", "Fraction used KV cache blocks",
       [](const Stats& s, const Info&) { return share(s.used_blocks, s.max_blocks); }}}},
    // Of engines that share a request's work over several models: none here.
    {"nv_trt_llm_disaggregated_serving_metrics",
     "Disaggregated serving",
     "disaggregated_serving_type",
     true,
     {{"kv_cache_transfer_ms", "KV cache transfer time", zero},
      {"request_count", "Request count", zero}}},
    {"nv_trt_llm_general_metrics",
     "Progress of the engine",
     "general_type",
     false,
     {{"timestamp", kTimestamp,
       [](const Stats& s, const Info&) { return static_cast<double>(s.timestamp_us); }},
      {"iteration_counter", "Iteration Counter",
       [](const Stats& s, const Info&) { return static_cast<double>(s.iteration); }}}},
    {"nv_llm_engine_metrics",
     "Whether the engine runs",
     "engine_metric",
     false,
     {{"healthy", nullptr,
       [](const Stats& s, const Info&) -> double { return s.is_healthy ? 1 : 0; }}}},
    {"nv_llm_prefix_cache_metrics",
     "Prompt tokens looked up in the KV cache since load, and found there",
     "prefix_cache_type",
     false,
     {{"queried_tokens", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.prefix_queried_tokens); }},
      {"hit_tokens", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.prefix_hit_tokens); }},
      {"host_hit_tokens", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.prefix_host_hit_tokens); }},
      {"hit_rate", nullptr,
       [](const Stats& s, const Info&) {
         return share(s.prefix_hit_tokens, s.prefix_queried_tokens);
       }}}},
    {"nv_llm_kv_cache_blocks",
     "Blocks of the KV cache by tier and state",
     "kv_cache_block_state",
     false,
     {{"device_free", nullptr,
       [](const Stats& s, const Info&) {
         return static_cast<double>(s.free_blocks - s.cached_blocks);
       }},
      {"device_cached", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.cached_blocks); }},
      {"device_used", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.used_blocks); }},
      {"host_free", nullptr,
       [](const Stats& s, const Info&) {
         return static_cast<double>(s.max_host_blocks - s.cached_host_blocks);
       }},
      {"host_cached", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.cached_host_blocks); }}}},
    {"nv_llm_kv_cache_block_count",
     "What has happened to blocks of the KV cache since load",
     "kv_cache_event",
     true,
     {{"stored", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.stored_blocks); }},
      {"reused", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.reused_blocks); }},
      {"copied", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.copied_blocks); }},
      {"evicted", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.evicted_blocks); }},
      {"offloaded", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.offloaded_blocks); }},
      {"onboarded", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.onboarded_blocks); }}}},
    {"nv_llm_kv_cache_copy_bytes",
     "Bytes of the KV cache copied since load",
     "kv_cache_copy",
     true,
     {{"to_host", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.copied_to_host_bytes); }},
      {"from_host", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.copied_from_host_bytes); }},
      {"on_device", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.copied_on_device_bytes); }}}},
    {"nv_llm_token_count",
     "Tokens computed since load",
     "token_type",
     true,
     {{"prompt", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.prompt_tokens); }},
      {"generated", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.generated_tokens); }}}},
    {"nv_llm_preemption_count",
     "Times since load that a running request gave its blocks up, to go on later",
     "preemption_cause",
     true,
     {{"no_free_blocks", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.preemptions); }}}},
    {"nv_llm_request_count",
     "Requests that the engine has ended since load",
     "end",
     true,
     {{"finished", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.finished_requests); }},
      {"cancelled", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.cancelled_requests); }},
      {"timed_out", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.timed_out_requests); }},
      {"failed", nullptr,
       [](const Stats& s, const Info&) { return static_cast<double>(s.failed_requests); }}}},
};

const NumberFamily kInflight = {
    "nv_trt_llm_inflight_batcher_metrics",
    "The newest step",
    "inflight_batcher_specific_metric",
    false,
    {{"total_context_tokens", "Total Context Tokens", context_tokens},
     {"generation_requests", "Generation Requests",
      [](const Stats& s, const Info&) -> double { return s.generation_requests; }},
     {"micro_batch_id", "MicroBatch ID", zero},
     {"paused_requests", "Paused Requests",
      [](const Stats& s, const Info&) -> double { return s.paused_requests; }}}};

const NumberFamily kV1 = {
    "nv_trt_llm_v1_metrics",
    "The newest step",
    "v1_specific_metric",
    false,
    {{"total_context_tokens", "Total Context Tokens", context_tokens},
     {"total_generation_tokens", "Total Generation Tokens",
      [](const Stats& s, const Info&) -> double { return s.generation_requests; }},
     {"empty_generation_slots", "Empty Generation Slots",
      [](const Stats& s, const Info& i) -> double {
        return std::max(0, i.max_batch_size - s.scheduled_requests);
      }}}};

std::string utc_text(int64_t microseconds) {
  const std::time_t seconds = microseconds / 1'000'000;
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  std::array<char, 64> text{};
  const size_t length = std::strftime(text.data(), text.size(), "%m-%d-%Y %H:%M:%S", &parts);
  std::snprintf(text.data() + length, text.size() - length, ".%06d",
                static_cast<int>(microseconds % 1'000'000));
  return text.data();
}

/// Whole numbers without exponent, which readers take for integers.
std::string number_text(double value) {
  std::array<char, 32> text{};
  const bool is_whole = value == std::floor(value) && std::abs(value) < 9e15;
  char* const end = text.data() + text.size();
  const auto done = is_whole ? std::to_chars(text.data(), end, static_cast<int64_t>(value))
                             : std::to_chars(text.data(), end, value);
  return {text.data(), done.ptr};
}

constexpr double kNanosecond = 1e-9;

/// Nothing where one of the two did not happen, or the request was cut short.
std::optional<double> seconds_between(const EndedRequest& request, int64_t from_ns, int64_t to_ns) {
  if (request.is_cancelled || from_ns == 0 || to_ns < from_ns) return std::nullopt;
  return kNanosecond * static_cast<double>(to_ns - from_ns);
}

const std::vector<double> kTokenLengths = {10, 50, 100, 500, 1000};
const std::vector<double> kWaits = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5,
                                    0.75,  1.0,   2.5,  5.0,  7.5,  10.0, 20.0, 40.0, 80.0};
const std::vector<double> kTokenTimes = {0.001, 0.0025, 0.005, 0.01,  0.015, 0.02, 0.025,
                                         0.03,  0.04,   0.05,  0.075, 0.1,   0.15, 0.2,
                                         0.3,   0.4,    0.5,   1.0,   2.5};
const std::vector<double> kLatencies = {0.05, 0.1,  0.2,  0.3,  0.5,  0.8,  1.0,  1.5,   2.0,  2.5,
                                        5.0,  10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 120.0, 240.0};

}  // namespace

Stats shown(Stats newest) {
  if (newest.active_requests == 0) {  // that step was the last: what was in it is gone
    newest.scheduled_requests = newest.context_requests = newest.generation_requests = 0;
    newest.context_tokens = 0;
  }
  return newest;
}

std::vector<const NumberFamily*> number_families(BatchingNumbers numbers) {
  std::vector<const NumberFamily*> families;
  for (const NumberFamily& family : kShared) families.push_back(&family);
  families.push_back(numbers == BatchingNumbers::kV1 ? &kV1 : &kInflight);
  return families;
}

std::string statistics_line(const Stats& stats, const Info& info, BatchingNumbers numbers) {
  std::string line;
  for (const NumberFamily* family : number_families(numbers)) {
    for (const NumberRow& row : family->rows) {
      if (row.key == nullptr) continue;
      line += line.empty() ? "{\"" : ",\"";
      line.append(row.key).append("\":");
      line += std::string_view(row.key) == kTimestamp ? '"' + utc_text(stats.timestamp_us) + '"'
                                                      : number_text(row.value(stats, info));
    }
  }
  return line + "}";
}

const std::vector<HistogramFamily>& histogram_families() {
  static const std::vector<HistogramFamily> families = {
      {"nv_llm_input_token_len", "Tokens of a request's prompt", "response_metric_type",
       "total_input_tokens", kTokenLengths,
       [](const EndedRequest& r) -> std::optional<double> { return r.input_tokens; }},
      {"nv_llm_output_token_len", "Tokens generated for a request", "response_metric_type",
       "total_output_tokens", kTokenLengths,
       [](const EndedRequest& r) -> std::optional<double> { return r.output_tokens; }},
      {"nv_llm_queue_time_seconds", "From a request's arrival to its first step", nullptr, nullptr,
       kWaits,
       [](const EndedRequest& r) {
         return seconds_between(r, r.received_ns, r.times.first_scheduled_ns);
       }},
      {"nv_llm_time_to_first_token_seconds", "From a request's arrival to its first token", nullptr,
       nullptr, kWaits,
       [](const EndedRequest& r) {
         return seconds_between(r, r.received_ns, r.times.first_token_ns);
       }},
      {"nv_llm_time_per_output_token_seconds", "A request's mean time between tokens", nullptr,
       nullptr, kTokenTimes,
       [](const EndedRequest& r) -> std::optional<double> {
         const auto all = seconds_between(r, r.times.first_token_ns, r.times.last_token_ns);
         if (!all || r.longest_output < 2) return std::nullopt;
         return *all / static_cast<double>(r.longest_output - 1);
       }},
      {"nv_llm_e2e_request_latency_seconds", "From a request's arrival to its last response",
       nullptr, nullptr, kLatencies,
       [](const EndedRequest& r) { return seconds_between(r, r.received_ns, r.answered_ns); }},
  };
  return families;
}

}  // namespace inflight::triton
