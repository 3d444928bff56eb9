#include "backend/kv_cache/retention.h"

#include <string>

#include "kernels/core/check.h"

namespace inflight::kv_cache {
namespace {

void check_priority(const std::string& field, int32_t priority) {
  check(priority >= 0 && priority <= Retention::kMaxPriority, field, " is ", priority,
        "; it must be at least 0 and at most ", int32_t{Retention::kMaxPriority});
}

void check_duration(const std::string& field,
                    const std::optional<std::chrono::milliseconds>& duration) {
  check(!duration || duration->count() >= 0, field, " is ", duration ? duration->count() : 0,
        " ms; it must be at least 0, or -1 for ever");
}

}  // namespace

void validate(const Retention& retention) {
  for (size_t i = 0; i < retention.ranges.size(); ++i) {
    const RetentionRange& range = retention.ranges[i];
    const auto field = [&](const char* name) {
      return concat("retention_token_range_", name, "[", i, "]");
    };
    check(range.begin >= 0, field("starts"), " is ", range.begin, "; it must be at least 0");
    check(!range.end || *range.end > range.begin, field("ends"), " is ", range.end.value_or(0),
          "; it must be greater than the start, ", range.begin, ", or -1 for the prompt's end");
    check_priority(field("priorities"), range.priority);
    check_duration(field("durations_ms"), range.duration);
  }
  check_priority("retention_decode_priority", retention.decode_priority);
  check_duration("retention_decode_duration_ms", retention.decode_duration);
}

}  // namespace inflight::kv_cache
