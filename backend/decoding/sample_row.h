// What the sampler is told of one row of logits. Pure views: requests and sequences own the data.
#pragma once

#include <cstdint>
#include <span>

#include "backend/decoding/sampling_params.h"

namespace inflight::decoding {

/// One row of the logits that samples. Rows that do not (prompt chunks but the last) are left out.
/// The spans and pointers must live until `prepare` returns. The token drawn depends only on the
/// row's logits, its parameters and histories: never on its place in the batch.
struct SampleRow {
  int row = 0;                               // of logits[B, V]; each at most once
  const SamplingParams* sampling = nullptr;  // validated
  const StopParams* stop = nullptr;          // its bans: bad words, end ids until min_new_tokens
  std::span<const TokenBias> biases;         // biases_of(*sampling)
  std::span<const int32_t> prompt_ids;
  std::span<const int32_t> generated_ids;  // without the token now drawn
  /// >= 0: the newest generated token is not in generated_ids; it is this entry of the previous
  /// step's tokens. Then no bad word may have more than one id.
  int32_t in_flight_token = -1;

  int num_unknown() const { return in_flight_token >= 0 ? 1 : 0; }
};

}  // namespace inflight::decoding
