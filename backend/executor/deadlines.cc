#include "backend/executor/deadlines.h"

#include <algorithm>

namespace inflight::executor {

namespace {

int64_t queue_deadline_of(const Sequence& sequence, std::chrono::milliseconds queue_timeout) {
  if (sequence.has_started() || queue_timeout.count() == 0) return kNoDeadline;
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

void Deadlines::add(Sequence& sequence) {
  sequence.deadline_key_ns = deadline_of(sequence, queue_timeout_);
  if (sequence.deadline_key_ns != kNoDeadline)
    by_time_.emplace(sequence.deadline_key_ns, &sequence);
}

void Deadlines::remove(Sequence& sequence) {
  if (sequence.deadline_key_ns != kNoDeadline)
    by_time_.erase({sequence.deadline_key_ns, &sequence});
}

Sequence* Deadlines::overdue(int64_t now_ns) {
  while (!by_time_.empty() && by_time_.begin()->first <= now_ns) {
    Sequence& sequence = *by_time_.begin()->second;
    if (deadline_of(sequence, queue_timeout_) <= now_ns) return &sequence;
    by_time_.erase(by_time_.begin());  // the queue's timeout, in time for which it began to run
    add(sequence);
  }
  return nullptr;
}

}  // namespace inflight::executor
