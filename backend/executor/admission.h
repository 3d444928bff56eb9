// The door: what a request must be to enter the engine. Pure; any thread.
#pragma once

#include <cstdint>

#include "backend/executor/engine.h"
#include "backend/executor/request.h"
#include "backend/scheduler/limits.h"

namespace inflight::executor {

/// The number of tokens that `request` may generate: its own limit, shortened with a warning to
/// what max_seq_len leaves. Raises invalid_argument, naming value and limit, if it cannot be
/// served.
int admit(const Request& request, const EngineInfo& info, const scheduler::Limits& limits);

/// Bytes of the logits of one response to it: a streaming request has its generation logits with
/// each token.
int64_t logits_bytes(const Request& request, const EngineInfo& info, int max_new_tokens);

}  // namespace inflight::executor
