// How many tokens each sequence gets in a step: one for every generating sequence, then the rest to
// prompts, larger priority first, running before waiting, in order of admission. The rest is that
// of max_num_tokens or, where a bound on the time per output token is asked for, what the measured
// step times (step_time.h) say there is time for.
#pragma once

#include <cstdint>

#include "backend/scheduler/limits.h"
#include "backend/scheduler/schedule.h"
#include "backend/scheduler/step.h"
#include "backend/scheduler/view.h"

namespace inflight::scheduler {

/// Writes `step` anew; what it held is memory. Of `view.waiting` only the first `num_admissible`
/// may run; those that get tokens are the admitted ones (of a static batch all are admitted at
/// once).
///
/// With chunked context a chunk that does not end its prompt ends at a block border; only where the
/// step has no room to reach one does its first chunk end earlier, so that every step moves on.
/// Without, a prompt runs whole or waits, and those behind it wait too (but one that was preempted,
/// whose prompt has grown by what it generated, is cut).
///
/// A step has max_batch_size rows of logits: one for every sequence, or for every token of a prompt
/// with logits_of_prompt, which is cut into chunks by what is left of them, chunked context or not.
/// A chunk of several such tokens is the step's last and leaves a token of max_num_tokens free, for
/// the row that the runner pads such a step with.
///
/// No more blocks are asked for than are free or evictable. Where some are still held by preempted
/// sequences that a step in flight names, generating ones may have to sit a step out. So may a few
/// of many that generate without a prompt beside them (whole_tiles.h).
void assign_tokens(Step& step, Scratch& scratch, const EngineView& view, int32_t num_admissible,
                   const Limits& limits);

/// Raises invalid_argument if a prompt of this length could never run.
void check_fits_budget(int32_t prompt_len, const Limits& limits);

}  // namespace inflight::scheduler
