// Cache hits first: of several that may begin, the one with most of its prompt in the cache makes
// the most of what is there before it is evicted. Bounded: one that was passed over kMaxPasses
// times is passed no more, and one that was preempted never, so nobody starves.
#pragma once

#include <cstdint>
#include <span>

#include "backend/scheduler/view.h"

namespace inflight::scheduler {

constexpr int32_t kMaxPasses = 8;
/// Candidates to choose among.
constexpr int32_t kLookahead = 16;

/// The place of the one to go first among `candidates`, at least one, who stand in the order of
/// their queue: of those of the first one's priority, up to and with the first that may not be
/// passed, the one with the largest num_computed, of equals the first.
int32_t first_by_hits(std::span<const SequenceView> candidates);

}  // namespace inflight::scheduler
