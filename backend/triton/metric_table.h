// What a server shows of an engine: the families of its metrics page, and the statistics line of
// its log, made of the same rows so that the two cannot differ. Pure: calls no server. Names,
// labels and buckets of nv_trt_llm_* and of the two token lengths are the former backend's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/executor/engine.h"

namespace inflight::triton {

/// Which of the two sets of numbers a model has. Requests are batched in flight either way.
enum class BatchingNumbers { kInflight, kV1 };

/// The newest statistics as they are shown: an engine without requests shows an idle step.
executor::EngineStats shown(executor::EngineStats newest);

/// One metric. `key` names it in the statistics line; null where it stands on the page alone.
struct NumberRow {
  const char* category;
  const char* key;
  double (*value)(const executor::EngineStats& stats, const executor::EngineInfo& info);
};

/// A family of gauges or counters with the labels model, `label` and version. A counter's value is
/// the sum since load.
struct NumberFamily {
  const char* name;
  const char* help;
  const char* label;
  bool is_counter;
  std::vector<NumberRow> rows;
};

std::vector<const NumberFamily*> number_families(BatchingNumbers numbers);

/// A JSON object on one line: the rows with a key, in order; the timestamp as text, UTC.
std::string statistics_line(const executor::EngineStats& stats, const executor::EngineInfo& info,
                            BatchingNumbers numbers);

/// A request of the server that ended without an error; of several rows or sequences, all together:
/// the first of them to start, the last to end.
struct EndedRequest {
  int64_t input_tokens = 0;    // each row's once
  int64_t output_tokens = 0;   // generated; the prompt is none of them
  int64_t longest_output = 0;  // of its sequences
  int64_t received_ns = 0;     // by the backend
  int64_t answered_ns = 0;     // after its last response was sent
  executor::RequestTimes times;
  bool is_cancelled = false;  // ended early by its client: its times say nothing of the engine
};

/// A family of one histogram a model, with the labels model, `label` if there is one, version, le.
struct HistogramFamily {
  const char* name;
  const char* help;
  const char* label;  // null: none
  const char* category;
  std::vector<double> bounds;  // upper, inclusive
  /// What is observed of a request, once.
  std::optional<double> (*value)(const EndedRequest& request);
};

const std::vector<HistogramFamily>& histogram_families();

}  // namespace inflight::triton
