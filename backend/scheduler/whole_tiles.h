// Products of many rows cost by whole tiles of rows: of an 8B on an H200 a step of 776 takes 15 %
// longer than one of 768. Where a few of those that generate are beyond a tile they sit the step
// out, in turns, and all get on faster. Pure.
#pragma once

#include <cstdint>
#include <span>

#include "backend/scheduler/limits.h"
#include "backend/scheduler/step.h"
#include "backend/scheduler/view.h"

namespace inflight::scheduler {

/// Takes out of a step of generating sequences alone (indices into `running`) those beyond the
/// largest multiple of limits.tile_rows, if they are no more than half a tile and an eighth of the
/// others: the next ones with each `turn`, a number that counts steps. They are of the lowest
/// priority in the step; if that has fewer than nine times as many all run, so nobody sits out more
/// than one step in nine. Where a bound on the time per output token is asked for all run, too.
void fill_tiles(Step& step, std::span<const SequenceView> running, uint64_t turn,
                const Limits& limits);

}  // namespace inflight::scheduler
