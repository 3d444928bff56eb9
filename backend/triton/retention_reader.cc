#include "backend/triton/retention_reader.h"

#include <string>

#include "kernels/core/check.h"

namespace inflight::triton {

namespace {

using Milliseconds = std::chrono::milliseconds;

constexpr std::string_view kRange = "retention_token_range_";

/// -1 = none.
std::optional<Milliseconds> duration_of(int32_t milliseconds) {
  if (milliseconds == -1) return std::nullopt;
  return Milliseconds(milliseconds);
}

/// As many as there are starts. An `optional` one may be missing.
std::vector<int32_t> read_column(const Inputs& inputs, const char* name, size_t num_ranges,
                                 bool optional) {
  const std::string tensor = concat(kRange, name);
  std::vector<int32_t> values = inputs.values<int32_t>(tensor);
  if (optional && values.empty()) return values;
  check(values.size() == num_ranges, tensor, " has ", values.size(), " elements but ", kRange,
        "starts has ", num_ranges, "; each range has one of each");
  return values;
}

}  // namespace

std::optional<kv_cache::Retention> read_retention(const Inputs& inputs) {
  const std::vector<int32_t> starts = inputs.values<int32_t>(concat(kRange, "starts"));
  const size_t count = starts.size();
  const bool needed = count > 0;
  const auto ends = read_column(inputs, "ends", count, !needed);
  const auto priorities = read_column(inputs, "priorities", count, !needed);
  const auto durations = read_column(inputs, "durations_ms", count, /*optional=*/true);
  const auto decode_priority = inputs.scalar<int32_t>("retention_decode_priority");
  const auto decode_duration = inputs.scalar<int32_t>("retention_decode_duration_ms");
  if (!needed && !decode_priority && !decode_duration) return std::nullopt;

  kv_cache::Retention retention;
  for (size_t i = 0; i < count; ++i) {
    kv_cache::RetentionRange& range = retention.ranges.emplace_back();
    range.begin = starts[i];
    if (ends[i] != -1) range.end = ends[i];
    range.priority = priorities[i];
    if (!durations.empty()) range.duration = duration_of(durations[i]);
  }
  if (decode_priority) retention.decode_priority = *decode_priority;
  if (decode_duration) retention.decode_duration = duration_of(*decode_duration);
  return retention;
}

}  // namespace inflight::triton
