// The gauges that a server shows.
#include <chrono>
#include <thread>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {
namespace {

/// The server loads a model again before the one unloaded is gone.
void gauges_outlive_an_earlier_load() {
  Backend later;
  {
    Backend earlier(true, {}, &later);
    earlier.run(make_request(prompt_of(3), 4));
  }
  later.run(make_request(prompt_of(3), 4));
  EXPECT_EQ(fake_gauges().size(), 20u);
}

void gauges_end_idle() {
  Backend backend;
  const RequestPtr request = make_request(prompt_of(10), 8);
  backend.run(request);
  for (int i = 0; i < 2000 && fake_gauges().at("nv_trt_llm_request_metrics active") != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto gauges = fake_gauges();
  EXPECT_EQ(gauges.size(), 20u);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics active"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics scheduled"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics waiting"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_request_metrics max"), 4);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics used"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics max"), 64);
  EXPECT_EQ(gauges.at("nv_trt_llm_kv_cache_block_metrics fraction"), 0);
  EXPECT_EQ(gauges.at("nv_trt_llm_inflight_batcher_metrics generation_requests"), 0);
  EXPECT(gauges.at("nv_trt_llm_general_metrics iteration_counter") >= 8);
}

}  // namespace
}  // namespace inflight::testing

int main(int argc, char** argv) {
  using namespace inflight::testing;
  return run_cases(
      {
          {"gauges_outlive_an_earlier_load", gauges_outlive_an_earlier_load},
          {"gauges_end_idle", gauges_end_idle},
      },
      argc, argv);
}
