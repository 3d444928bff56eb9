// All layers of a decoder, of one new row to each sequence, in one launch of a Hopper GPU. It
// stands for rows of a plan: fused_linear (qkv), rope_attention or the ops that it is composed of,
// fused_linear (o, gate and up, down), layer after layer, and the head where it follows; it rounds
// where they do. What they make on the way goes from block to block, not into their outputs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/core/op_run.h"

namespace inflight {

inline constexpr int kMaxRunLayers = 40;
inline constexpr int64_t kMaxRunRows = 8;

struct DecoderLayerParams {
  const TensorView* input_norm;  // [H], dtype of x
  const TensorView* qkv;         // [(num_heads + 2 * num_kv_heads) * head_size, H]
  const TensorView* qkv_bias;    // [rows of qkv]; may be without data
  const TensorView* output;      // [H, num_heads * head_size]
  const TensorView* post_norm;   // [H]
  const TensorView* gate_up;     // [2 * I, H]
  const TensorView* down;        // [H, I]
  const TensorView* kv_cache;    // as rope_attention has it
};

struct DecoderRunParams {
  std::vector<DecoderLayerParams> layers;
  const TensorView* x = nullptr;          // [T, H] bfloat16
  const TensorView* y = nullptr;          // [T, H], of the last layer
  const TensorView* head_norm = nullptr;  // [H]; null: no head
  const TensorView* head = nullptr;       // [V, H]
  const TensorView* logits = nullptr;     // [T, V] float32
  // As rope_attention has these.
  const TensorView* cos_sin = nullptr;
  const TensorView* block_tables = nullptr;
  const TensorView* kv_lengths = nullptr;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_size = 0;
  float scale = 0;
  float epsilon = 0;  // of all norms
};

/// The run of layers that the rows of a plan begin with, as one call where a step allows it.
OpRun find_decoder_run(std::span<const OpCall> rows);

namespace cuda {
/// Of OpRun::memory, for any step.
size_t decoder_run_memory_bytes(const DecoderRunParams& params, Device device);
/// False, with nothing done, unless the step has one row to a sequence, few of them, and the device
/// and the shapes suit.
bool decoder_run(const DecoderRunParams& params, void* memory, OpContext& context);
}  // namespace cuda

}  // namespace inflight
