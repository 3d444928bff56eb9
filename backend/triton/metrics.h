// The nv_trt_llm_* gauges of one model instance, set from the engine's statistics.
// Lives on the response thread after construction.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

class Metrics {
 public:
  Metrics(const std::string& model, uint64_t version, const executor::EngineInfo& info);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void publish(const executor::EngineStats& stats);

 private:
  struct Gauge;
  struct SharedFamilies;
  std::shared_ptr<SharedFamilies> families_;
  std::vector<Gauge> gauges_;
};

}  // namespace inflight::triton
