// The server's metrics: the families, of the backend, and the gauges, counters and histograms of a
// model instance. What they show is metric_table's.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "backend/executor/engine.h"
#include "backend/triton/metric_table.h"
#include "backend/triton/triton_c_api.h"

namespace inflight::triton {

/// The server's families, one set for all instances. Metrics of equal labels are one in the server,
/// and it counts their users by family object: with a family each, a model that is loaded again
/// while its earlier load ends would go on setting metrics that went with that.
///
/// Any thread may make Metrics of it; it must outlive them.
class MetricFamilies {
 public:
  MetricFamilies() = default;
  ~MetricFamilies();
  MetricFamilies(const MetricFamilies&) = delete;
  MetricFamilies& operator=(const MetricFamilies&) = delete;

 private:
  friend class Metrics;
  /// Makes it when it is first asked for; null: a server without metrics.
  TRITONSERVER_MetricFamily* find(TRITONSERVER_MetricKind kind, const char* name, const char* help);

  std::mutex mutex_;  // the server does not add metrics and remove others at once safely
  std::map<std::string, TRITONSERVER_MetricFamily*> handles_;
};

class Metrics {
 public:
  Metrics(MetricFamilies& families, const std::string& model, uint64_t version,
          executor::EngineInfo info, BatchingNumbers numbers);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  /// Sets gauges and counters and, where the log shows level 1, writes the same as a line. Any
  /// thread.
  void publish(const executor::EngineStats& newest);
  /// Any thread; once for each request of the server that ended without an error.
  void observe(const EndedRequest& request);

 private:
  struct Number {
    TRITONSERVER_Metric* metric;
    const NumberRow* row;
    bool is_counter;
    double counted;  // of a counter: what it was last brought to
  };
  struct Histogram {
    TRITONSERVER_Metric* metric;
    const HistogramFamily* family;
  };

  void add_numbers(const std::string& model, const std::string& version);
  void add_histograms(const std::string& model, const std::string& version);

  MetricFamilies& families_;
  const executor::EngineInfo info_;
  const BatchingNumbers batching_;
  std::mutex publish_mutex_;  // guards what counters were brought to
  std::vector<Number> numbers_;
  std::vector<Histogram> histograms_;
};

}  // namespace inflight::triton
