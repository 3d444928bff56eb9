// rope_kv_append and then attention of its queries, as one op: in a step of one row a sequence a
// GPU does both in one kernel. Elsewhere composed of the two, and rounds where they do. Where only
// each sequence's last row is wanted, gather_rows is between them.
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
  // [B] int32: each sequence's last row of qkv, which are those of y then. Optional: without it y
  // has all.
  const TensorView& last_rows;
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
