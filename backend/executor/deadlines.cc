#include "backend/executor/deadlines.h"

#include <algorithm>

namespace inflight::executor {

namespace {

int64_t queue_deadline_of(const Sequence& sequence, std::chrono::milliseconds queue_timeout) {
  if (sequence.is_running() || queue_timeout.count() == 0) return kNoDeadline;
  return sequence.arrival_ns() + std::chrono::nanoseconds(queue_timeout).count();
}

int64_t milliseconds_waited(const Sequence& sequence, int64_t now_ns) {
  return (now_ns - sequence.arrival_ns()) / 1'000'000;
}

}  // namespace

int64_t deadline_of(const Sequence& sequence, std::chrono::milliseconds queue_timeout) {
  const auto& asked = sequence.request().deadline;
  const int64_t own =
      asked ? std::chrono::nanoseconds(asked->time_since_epoch()).count() : kNoDeadline;
  return std::min(own, queue_deadline_of(sequence, queue_timeout));
}

Ending ending_of_overdue(const Sequence& sequence, std::chrono::milliseconds queue_timeout,
                         int64_t now_ns) {
  if (!sequence.generated().empty()) return {FinishReason::kDeadline, std::nullopt};
  const bool has_waited_too_long = queue_deadline_of(sequence, queue_timeout) <= now_ns;
  const std::string why = has_waited_too_long
                              ? concat("it has waited ", milliseconds_waited(sequence, now_ns),
                                       " ms, queue_timeout_ms is ", queue_timeout.count())
                              : concat("its deadline has passed before its first token, ",
                                       milliseconds_waited(sequence, now_ns), " ms after it came");
  return {FinishReason::kError,
          Error(ErrorCode::kTimedOut, concat("Request timeout expired: ", why))};
}

}  // namespace inflight::executor
