// Rotates queries and keys by their positions and writes keys and values into the paged cache.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

struct RopeKvAppendParams {
  const TensorView& qkv;      // [T, (num_heads + 2 * num_kv_heads) * head_size] floating: q, k, v
  const TensorView& cos_sin;  // [T, R] float32, R even and at most head_size: rope_table's
  const TensorView& slots;    // [T] int32: where k and v go, block * tokens_per_block + offset;
                              // a negative one writes nothing
  // [num_blocks, 2, num_kv_heads, tokens_per_block, head_size] floating, k then v; blocks may be
  // any stride apart, each is dense.
  const TensorView& kv_cache;
  const TensorView& q;  // [T, num_heads * head_size], dtype of qkv
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_size;
};

void rope_kv_append(const RopeKvAppendParams& params, OpContext& context);
/// Raises Error if shapes or dtypes do not fit.
void check_rope_kv_append(const RopeKvAppendParams& params);

OpDef rope_kv_append_op();

namespace cpu {
void rope_kv_append(const RopeKvAppendParams& params, OpContext& context);
}

namespace cuda {
void rope_kv_append(const RopeKvAppendParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
