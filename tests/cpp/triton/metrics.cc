// What a server shows of the engine: gauges and counters, the statistics line, histograms.
#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <numeric>
#include <thread>

#include "backend/triton/triton_error.h"
#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

using Json = nlohmann::json;
using Counts = std::vector<int>;

constexpr size_t kNumGauges = 48;

void wait_until_idle() {
  for (int i = 0; i < 2000 && fake_gauges().at("nv_trt_llm_request_metrics active") != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

/// The server loads a model again before the one unloaded is gone.
void gauges_outlive_an_earlier_load() {
  Backend later;
  {
    Backend earlier(true, {}, &later);
    earlier.run(make_request(prompt_of(3), 4));
  }
  later.run(make_request(prompt_of(3), 4));
  EXPECT_EQ(fake_gauges().size(), kNumGauges);
}

void gauges_end_idle() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(10), 8);
  backend.run(request);
  wait_until_idle();
  const auto gauges = fake_gauges();
  EXPECT_EQ(gauges.size(), kNumGauges);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics active"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics scheduled"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics waiting"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics max"), 4);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics used"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics max"), 64);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics fraction"), 0);
  EXPECT_EQ(gauges.at("nv_llm_kv_cache_blocks device_used"), 0);
  EXPECT_EQ(gauges.at("nv_llm_kv_cache_blocks device_free") +
                gauges.at("nv_llm_kv_cache_blocks device_cached"),
            64);
  EXPECT_EQ(gauges.at("nv_llm_kv_cache_blocks host_free"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_inflight_batcher_metrics generation_requests"), 0);
  EXPECT(gauges.at("nv_trt_llm_general_metrics iteration_counter") >= 8);
}

void counters_count_since_load() {
  Backend backend;
  for (int length : {3, 10}) backend.run(make_request(prompt_of(length), 8));
  const RequestPtr failing = make_request(prompt_of(4), 8);
  backend.script->fail_at_step = backend.script->num_steps + 2;
  backend.error_of(failing);
  wait_until_idle();
  const auto gauges = fake_gauges();
  EXPECT_EQ(gauges.at("nv_llm_token_count prompt"), 11);  // the rest was there
  EXPECT_EQ(gauges.at("nv_llm_token_count generated"), 18);
  EXPECT_EQ(gauges.at("nv_llm_request_count finished"), 2);
  EXPECT_EQ(gauges.at("nv_llm_request_count failed"), 1);
  EXPECT_EQ(gauges.at("nv_llm_request_count cancelled"), 0);
  EXPECT_EQ(gauges.at("nv_llm_prefix_cache_metrics queried_tokens"), 17);
  EXPECT_EQ(gauges.at("nv_llm_prefix_cache_metrics hit_tokens"), 6);  // prompts begin alike
}

/// Two that cannot both grow: one gives way, as often as the policy lets it.
void preemptions_are_counted() {
  EngineInfo info = small_info();
  info.num_blocks = 10;
  for (const bool preempts : {false, true}) {
    executor::EngineConfig config;
    config.batch_scheduler_policy = preempts ? "max_utilization" : "guaranteed_no_evict";
    Backend backend(true, config, nullptr, {}, info);
    backend.script->gate.close();
    const RequestPtr first = make_request(prompt_of(8, 1), 28);
    const RequestPtr second = make_request(prompt_of(8, 2), 28);
    backend.send(first);
    backend.send(second);
    backend.script->gate.open();
    for (const RequestPtr* request : {&first, &second})
      EXPECT(!backend.ended(*request).back().error.has_value());
    wait_until_idle();
    const auto gauges = fake_gauges();
    const double counted = gauges.at("nv_llm_preemption_count no_free_blocks");
    EXPECT(preempts ? counted >= 1 && counted <= 4 : counted == 0);
    EXPECT_EQ(gauges.at("nv_trt_llm_inflight_batcher_metrics paused_requests"), 0);
  }
}

/// The numbers of a line by the name of their gauge, which end alike.
void expect_equal_to_gauges(const Json& line, bool is_v1) {
  const auto gauges = fake_gauges();
  const std::string batcher =
      is_v1 ? "nv_trt_llm_v1_metrics " : "nv_trt_llm_inflight_batcher_metrics ";
  std::map<std::string, std::string> keys = {
      {"Active Request Count", "nv_trt_llm_request_metrics active"},
      {"Max Request Count", "nv_trt_llm_request_metrics max"},
      {"Scheduled Requests", "nv_trt_llm_request_metrics scheduled"},
      {"Context Requests", "nv_trt_llm_request_metrics context"},
      {"Waiting Requests", "nv_trt_llm_request_metrics waiting"},
      {"Runtime CPU Memory Usage", "nv_trt_llm_runtime_memory_metrics cpu"},
      {"Runtime GPU Memory Usage", "nv_trt_llm_runtime_memory_metrics gpu"},
      {"Runtime Pinned Memory Usage", "nv_trt_llm_runtime_memory_metrics pinned"},
      {"Max KV cache blocks", "nv_trt_llm_kv_cache_block_metrics max"},
      {"Free KV cache blocks", "nv_trt_llm_kv_cache_block_metrics free"},
      {"Used KV cache blocks", "nv_trt_llm_kv_cache_block_metrics used"},
      {"Tokens per KV cache block", "nv_trt_llm_kv_cache_block_metrics tokens_per"},
      {"Reused KV cache blocks", "nv_trt_llm_kv_cache_block_metrics reused"},
      {"Fraction used KV cache blocks", "nv_trt_llm_kv_cache_block_metrics fraction"},
      {"KV cache transfer time", "nv_trt_llm_disaggregated_serving_metrics kv_cache_transfer_ms"},
      {"Request count", "nv_trt_llm_disaggregated_serving_metrics request_count"},
      {"Iteration Counter", "nv_trt_llm_general_metrics iteration_counter"},
      {"Total Context Tokens", batcher + "total_context_tokens"}};
  if (is_v1) {
    keys.emplace("Total Generation Tokens", batcher + "total_generation_tokens");
    keys.emplace("Empty Generation Slots", batcher + "empty_generation_slots");
  } else {
    keys.emplace("Generation Requests", batcher + "generation_requests");
    keys.emplace("MicroBatch ID", batcher + "micro_batch_id");
    keys.emplace("Paused Requests", batcher + "paused_requests");
  }
  EXPECT_EQ(line.size(), keys.size() + 1);
  for (const auto& [key, gauge] : keys) {
    EXPECT(line.contains(key) && gauges.contains(gauge));
    EXPECT_EQ(line.value(key, -1.0), gauges.at(gauge));
  }
  EXPECT_EQ(line.value("Timestamp", "").size(), std::string("11-21-2026 21:00:00.123456").size());
}

void a_line_for_each_publication() {
  set_log_sink(triton::write_to_server_log);
  for (const bool is_v1 : {false, true}) {
    fake_log_verbosely(true);
    triton::ModelSettings settings;
    if (is_v1) settings.batching_numbers = triton::BatchingNumbers::kV1;
    Backend backend(true, {}, nullptr, settings);
    backend.run(make_request(prompt_of(10), 8));
    wait_until_idle();
    std::vector<std::string> lines = fake_verbose_lines();
    EXPECT(!lines.empty());
    const Json last = Json::parse(lines.back());
    EXPECT_EQ(last.size(), is_v1 ? 21u : 22u);
    EXPECT_EQ(last.value("Active Request Count", -1), 0);
    expect_equal_to_gauges(last, is_v1);
    EXPECT_EQ(fake_gauges().size(), is_v1 ? kNumGauges - 1 : kNumGauges);
    fake_log_verbosely(false);
    backend.run(make_request(prompt_of(10), 8));
    EXPECT(fake_verbose_lines().empty());
  }
  set_log_sink({});
}

/// Numbers of an engine at work, where idle ones could agree by being 0.
void a_line_of_a_busy_engine() {
  executor::EngineStats stats;
  stats.timestamp_us = 1'763'759'045'000'123;
  stats.active_requests = 7;
  stats.scheduled_requests = 4;
  stats.context_requests = 1;
  stats.generation_requests = 3;
  stats.context_tokens = 12;
  stats.max_blocks = 64;
  stats.used_blocks = 16;
  stats.free_blocks = 48;
  stats.reused_blocks = 9;
  stats.tokens_per_block = 32;
  stats.paused_requests = 2;
  stats.iteration = 1'000'000;
  const Json line =
      Json::parse(triton::statistics_line(stats, small_info(), triton::BatchingNumbers::kInflight));
  EXPECT_EQ(line.at("Timestamp").get<std::string>(), "11-21-2025 21:04:05.000123");
  const std::map<std::string, int> numbers = {
      {"Active Request Count", 7},      {"Scheduled Requests", 4},     {"Context Requests", 1},
      {"Waiting Requests", 3},          {"Generation Requests", 3},    {"Paused Requests", 2},
      {"Total Context Tokens", 12},     {"Max KV cache blocks", 64},   {"Free KV cache blocks", 48},
      {"Used KV cache blocks", 16},     {"Reused KV cache blocks", 9}, {"MicroBatch ID", 0},
      {"Tokens per KV cache block", 32}};
  for (const auto& [key, number] : numbers) EXPECT_EQ(line.at(key).get<int>(), number);
  EXPECT_EQ(line.at("Fraction used KV cache blocks").get<double>(), 0.25);
  EXPECT(line.at("Iteration Counter").is_number_integer());
  EXPECT_EQ(line.at("Iteration Counter").get<int>(), 1'000'000);
  const Json v1 =
      Json::parse(triton::statistics_line(stats, small_info(), triton::BatchingNumbers::kV1));
  EXPECT_EQ(v1.at("Total Generation Tokens").get<int>(), 3);
  EXPECT_EQ(v1.at("Empty Generation Slots").get<int>(), 0);
}

void token_lengths_are_observed_once_a_request() {
  Backend backend;
  const auto send = [&](int prompt_len, int output_len, bool streaming) {
    const RequestPtr request = make_request(prompt_of(prompt_len), output_len);
    request->flag("streaming", streaming);
    backend.run(request);
  };
  send(10, 10, false);
  send(11, 20, true);
  send(13, 50, true);
  backend.error_of(make_request(prompt_of(64), 4));  // too long: never ran
  const FakeHistogram input = fake_histogram("nv_llm_input_token_len");
  const FakeHistogram output = fake_histogram("nv_llm_output_token_len");
  EXPECT(input.bounds == std::vector<double>({10, 50, 100, 500, 1000}));
  EXPECT(input.bounds == output.bounds);
  EXPECT(input.counts == Counts({1, 2, 0, 0, 0, 0}));
  EXPECT_EQ(input.sum, 34);
  EXPECT(output.counts == Counts({1, 2, 0, 0, 0, 0}));
  EXPECT_EQ(output.sum, 80);
}

void a_request_of_several_rows_is_observed_once() {
  Backend backend;
  backend.script->after_step = [] { std::this_thread::sleep_for(std::chrono::milliseconds(2)); };
  const auto request = make_request({0}, 0);
  request->inputs.clear();
  request->add("input_ids", TRITONSERVER_TYPE_INT32, {2, 3}, Ids{1, 2, 3, 4, 5, 0});
  request->add("input_lengths", TRITONSERVER_TYPE_INT32, {2, 1}, Ids{3, 2});
  request->add("request_output_len", TRITONSERVER_TYPE_INT32, {2, 1}, Ids{8, 8});
  request->add("num_return_sequences", TRITONSERVER_TYPE_INT32, {2, 1}, Ids{2, 2});
  backend.run(request);
  EXPECT_EQ(fake_histogram("nv_llm_input_token_len").num_observed, 1);
  EXPECT_EQ(fake_histogram("nv_llm_input_token_len").sum, 5);  // each row's prompt once
  EXPECT_EQ(fake_histogram("nv_llm_output_token_len").num_observed, 1);
  EXPECT_EQ(fake_histogram("nv_llm_output_token_len").sum, 32);  // of four sequences
  // Side by side: a token of each a step.
  EXPECT_EQ(fake_histogram("nv_llm_time_per_output_token_seconds").num_observed, 1);
  EXPECT(fake_histogram("nv_llm_time_per_output_token_seconds").sum >= 0.002);
  EXPECT_EQ(fake_histogram("nv_llm_e2e_request_latency_seconds").num_observed, 1);
}

void times_follow_one_another() {
  Backend backend;
  backend.script->gate.close();
  const RequestPtr request = make_request(prompt_of(4), 6);
  const auto start = std::chrono::steady_clock::now();
  backend.send(request);
  backend.script->gate.wait_for_arrivals(1);
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  backend.script->gate.open();
  backend.ended(request);
  const double all =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const double queue = fake_histogram("nv_llm_queue_time_seconds").sum;
  const double first = fake_histogram("nv_llm_time_to_first_token_seconds").sum;
  const double between = fake_histogram("nv_llm_time_per_output_token_seconds").sum;
  const double latency = fake_histogram("nv_llm_e2e_request_latency_seconds").sum;
  EXPECT(0 <= queue && queue < first);
  EXPECT(first >= 0.02 && first <= latency);
  EXPECT(between > 0 && first + 5 * between <= latency);
  EXPECT(latency <= all);
  for (const char* family :
       {"nv_llm_queue_time_seconds", "nv_llm_time_to_first_token_seconds",
        "nv_llm_time_per_output_token_seconds", "nv_llm_e2e_request_latency_seconds"})
    EXPECT_EQ(fake_histogram(family).num_observed, 1);
}

void a_single_token_has_no_time_between_tokens() {
  Backend backend;
  backend.run(make_request(prompt_of(4), 1));
  EXPECT_EQ(fake_histogram("nv_llm_time_to_first_token_seconds").num_observed, 1);
  EXPECT_EQ(fake_histogram("nv_llm_time_per_output_token_seconds").num_observed, 0);
}

void a_stopped_request_has_lengths_but_no_times() {
  Backend backend;
  backend.script->gate.close();
  const RequestPtr request = make_request(prompt_of(3), 50);
  request->id = "r";
  request->flag("streaming", true);
  backend.send(request);
  backend.script->gate.let_pass(3);
  request->wait_for_answers(1);
  const RequestPtr command = make_request({0}, 0);
  command->id = "r";
  command->flag("stop", true);
  backend.run(command);
  backend.script->gate.open();
  const size_t num_tokens = joined(backend.ended(request)).size();
  EXPECT_EQ(fake_histogram("nv_llm_input_token_len").num_observed, 1);
  EXPECT_EQ(fake_histogram("nv_llm_output_token_len").sum, static_cast<double>(num_tokens));
  EXPECT_EQ(fake_histogram("nv_llm_e2e_request_latency_seconds").num_observed, 0);
}

void statistics_come_at_their_period() {
  set_log_sink(triton::write_to_server_log);
  fake_log_verbosely(true);
  triton::ModelSettings settings;
  settings.stats_check_period = std::chrono::hours(1);
  Backend backend(true, {}, nullptr, settings);
  const RequestPtr request = make_request(prompt_of(3), 50);
  request->flag("streaming", true);
  backend.run(request);
  wait_until_idle();
  const auto lines = fake_verbose_lines();
  const auto num_busy = std::ranges::count_if(lines, [](const std::string& line) {
    return Json::parse(line).at("Active Request Count").get<int>() > 0;
  });
  EXPECT(num_busy <= 1);
  EXPECT_EQ(Json::parse(lines.back()).at("Active Request Count").get<int>(), 0);
  set_log_sink({});
  fake_log_verbosely(false);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"gauges_outlive_an_earlier_load", gauges_outlive_an_earlier_load},
          {"gauges_end_idle", gauges_end_idle},
          {"counters_count_since_load", counters_count_since_load},
          {"preemptions_are_counted", preemptions_are_counted},
          {"a_line_for_each_publication", a_line_for_each_publication},
          {"a_line_of_a_busy_engine", a_line_of_a_busy_engine},
          {"token_lengths_are_observed_once_a_request", token_lengths_are_observed_once_a_request},
          {"a_request_of_several_rows_is_observed_once",
           a_request_of_several_rows_is_observed_once},
          {"times_follow_one_another", times_follow_one_another},
          {"a_single_token_has_no_time_between_tokens", a_single_token_has_no_time_between_tokens},
          {"a_stopped_request_has_lengths_but_no_times",
           a_stopped_request_has_lengths_but_no_times},
          {"statistics_come_at_their_period", statistics_come_at_their_period},
      },
      argc, argv);
}
