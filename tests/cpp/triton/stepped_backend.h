// A backend whose steps the test lets pass one by one.
#pragma once

#include <chrono>
#include <thread>

#include "tests/cpp/triton/instance_fixture.h"

namespace inflight::testing {

/// A backend that makes a step when it is told to.
struct SteppedBackend : Backend {
  SteppedBackend() { script->gate.close(); }
  /// The parts of `count` steps are sent, or kept, when it returns.
  void run_steps(int count) {
    for (int i = 0; i < count; ++i) {
      script->gate.let_pass(1);
      ++num_steps;  // its parts are delivered before the gauges change
      while (fake_gauges().at("nv_trt_llm_general_metrics iteration_counter") < num_steps)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  int num_steps = 0;
};

}  // namespace inflight::testing
