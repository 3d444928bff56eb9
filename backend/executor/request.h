// What the user asked (immutable after submit) and what the engine answers. Ids in, ids out.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/decoding/sampling_params.h"
#include "backend/kv_cache/prefix.h"
#include "backend/kv_cache/retention.h"
#include "kernels/core/error.h"

namespace inflight::executor {

using RequestId = uint64_t;  // the engine's own, unique for its lifetime; 0 is never used

struct Request {
  std::string client_id;  // free text, may repeat; for logs
  std::vector<int32_t> input_ids;
  bool allow_unknown_ids = false;  // ids beyond the vocabulary embed as zeros, else an error
  decoding::SamplingParams sampling;
  decoding::StopParams stop;
  bool streaming = false;  // false: one response with everything
  bool return_context_logits = false;
  bool return_generation_logits = false;
  int priority = 0;  // larger first
  // Whose request it is: of equal priority, that of the tenant served least goes first; those of
  // one tenant in order of arrival.
  std::string tenant;
  // When it must have ended: what it has by then is its answer (kDeadline), or an error that says
  // so if it has no token yet.
  std::optional<std::chrono::steady_clock::time_point> deadline;
  std::optional<kv_cache::Retention> kv_retention;
  kv_cache::PrefixScope cache_scope;  // with whom it shares what is in the KV cache
};

enum class FinishReason { kNone, kEndId, kStopWord, kLength, kDeadline, kCancelled, kError };

/// Milliseconds and microseconds are the caller's affair: nanoseconds of std::chrono::steady_clock.
struct RequestTimes {
  int64_t arrival_ns = 0;
  int64_t first_scheduled_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
};

/// Blocks of the KV cache that hold the prompt.
struct ContextBlocks {
  int32_t allocated = 0;
  int32_t reused = 0;  // found in the cache
};

struct TokenLogProbs {
  float chosen = 0.0f;
  std::vector<std::pair<int32_t, float>> top;  // likeliest first, at most num_logprobs
};

/// One part of an answer. A streaming request gets any number of parts, the last with `is_final`;
/// another gets exactly one, final. A failed or cancelled request ends with one final part too,
/// which holds the tokens not yet sent.
struct Response {
  RequestId id = 0;
  std::vector<int32_t> token_ids;        // new since the last part
  std::vector<TokenLogProbs> log_probs;  // one a token, if asked
  float cumulative_log_prob = 0.0f;      // of all tokens so far, if asked
  // Logits as the model made them, before biases, penalties and temperature, if asked. [n, V] each.
  std::vector<float> context_logits;     // of all of the prompt's tokens, in the first part
  std::vector<float> generation_logits;  // that token_ids were chosen from
  bool is_final = false;
  FinishReason finish_reason = FinishReason::kNone;
  std::vector<int32_t> matched_ids;  // with kEndId the end id, with kStopWord the word's
  std::optional<Error> error;        // with kError only
  RequestTimes times;                // filled as known
  ContextBlocks context_blocks;
};

/// Called in order for each request and never by two threads at once: on the engine's response
/// thread or, with EngineConfig::callbacks_return_at_once, on the engine thread. Must not throw.
using ResponseCallback = std::function<void(Response&&)>;

}  // namespace inflight::executor
