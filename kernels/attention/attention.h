// Causal attention of the step's queries over their sequences' paged keys and values: prompt chunks
// over an existing prefix and generated tokens alike. Softmax in float32, computed online.
//
// With a window the token at position p sees positions (p - window, p] and, as StreamingLLM (Xiao
// et al. 2023) has it, the first num_sinks of its sequence. A block none of whose tokens is seen by
// any row of the step is not read, nor is its place in the block table: it may hold anything.
#pragma once

#include "kernels/core/op.h"

namespace inflight {

struct AttentionParams {
  const TensorView& q;  // [T, num_heads * head_size] floating
  // [num_blocks, 2, num_kv_heads, tokens_per_block, head_size] floating, k then v; blocks may be
  // any stride apart, each is dense. Already holds the step's own tokens.
  const TensorView& kv_cache;
  const TensorView& block_tables;  // [B, max_blocks] int32: the blocks of a sequence in order
  // [B + 1] int32: sequence b has rows [b, b + 1) of these. Optional: without it each has one row,
  // that of its last token, while any number of its tokens may be the step's own.
  const TensorView& query_starts;
  const TensorView& kv_lengths;  // [B] int32: tokens in the cache, the step's included
  const TensorView& y;           // [T, num_heads * head_size], dtype of q
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_size;
  float scale;
  int64_t window = 0;     // tokens that a token sees, itself included; 0: all before it
  int64_t num_sinks = 0;  // tokens at the start that are seen beside the window; needs one
};

void attention(const AttentionParams& params, OpContext& context);
/// Raises Error if shapes or dtypes do not fit.
void check_attention(const AttentionParams& params);

OpDef attention_op();

namespace cpu {
void attention(const AttentionParams& params, OpContext& context);
/// Scratch bytes for any step of at most so many tokens and sequences.
size_t attention_workspace_bytes(const AttentionParams& largest, int num_threads);
}  // namespace cpu

namespace cuda {
void attention(const AttentionParams& params, OpContext& context);
/// The same where params.q is qkv [T, (num_heads + 2 * num_kv_heads) * head_size] before rope,
/// whose keys and values the cache lacks: it rotates by cos_sin [T, R] and puts them in, where the
/// block tables have each sequence's last place. For steps of one row a sequence. False: nothing
/// was done.
bool attention_of_qkv(const AttentionParams& params, const TensorView& cos_sin, OpContext& context);
/// Scratch bytes for any step of at most so many tokens and sequences. Raises as device_facts does.
size_t attention_workspace_bytes(const AttentionParams& largest, Device device);
}  // namespace cuda

}  // namespace inflight
