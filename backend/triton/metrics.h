// The nv_trt_llm_* gauges: their families, of the backend, and the gauges of a model instance, set
// from the engine's statistics.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// The server's families, one set for all instances. Gauges of equal labels are one in the server,
/// and it counts their users by family object: with a family each, a model that is loaded again
/// while its earlier load ends would go on setting gauges that went with that.
///
/// Any thread may make Metrics of it; it must outlive them.
class MetricFamilies {
 public:
  MetricFamilies();
  ~MetricFamilies();
  MetricFamilies(const MetricFamilies&) = delete;
  MetricFamilies& operator=(const MetricFamilies&) = delete;

 private:
  friend class Metrics;
  std::mutex mutex_;  // the server does not add gauges and remove others at once safely
  std::vector<TRITONSERVER_MetricFamily*> handles_;  // null: a server without metrics
};

/// Lives on the response thread after construction.
class Metrics {
 public:
  Metrics(MetricFamilies& families, const std::string& model, uint64_t version,
          executor::EngineInfo info);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  void publish(const executor::EngineStats& stats);

 private:
  struct Gauge;
  MetricFamilies& families_;
  const executor::EngineInfo info_;
  std::vector<Gauge> gauges_;
};

}  // namespace inflight::triton
