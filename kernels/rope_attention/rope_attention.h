// rope_kv_append and then attention of its queries, as one op: in a step of one row a sequence a
// GPU does both in one kernel. Elsewhere composed of the two, and rounds where they do.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

/// What the two ops' headers (rope/rope_kv_append.h, attention/attention.h) say of each of these.
/// Where a token's slot is not negative, it is where its sequence's block table has its place.
struct RopeAttentionParams {
  const TensorView& qkv;
  const TensorView& cos_sin;
  const TensorView& slots;
  const TensorView& kv_cache;
  const TensorView& block_tables;
  const TensorView& query_starts;
  const TensorView& kv_lengths;
  const TensorView& y;
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_size;
  float scale;
  int64_t window = 0;
  int64_t num_sinks = 0;
};

void rope_attention(const RopeAttentionParams& params, OpContext& context);

OpDef rope_attention_op();

}  // namespace inflight
