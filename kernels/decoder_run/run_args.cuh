// What the kernel of a run of layers is given (decoder_run.cu) and how its thread blocks lay out
// their shared memory.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/decoder_run/decoder_run.h"
#include "kernels/gemm/narrow.cuh"

namespace inflight::cuda::decoder {

using narrow::kConsumers;
using narrow::kPartColumns;
using narrow::kSlotBytes;
using narrow::kWarps;
// The warp behind the consumers copies weights; the others complete its group, which gives the
// consumers registers.
inline constexpr int kThreads = kConsumers + 4 * 32;
inline constexpr int kMaxSlots = narrow::kMaxSlots;
/// Of a linear without a norm whose x lanes keep as they multiply it: slots whose x is on its way.
inline constexpr int kStepsAhead = 4;

/// The linears of a layer in their order, and the one behind the last layer.
enum Kind : int { kQkv, kOutput, kGateUp, kDown, kHead, kNumKinds };
inline constexpr int kLayerKinds = kHead;

/// The same in all layers.
struct Linear {
  int columns;  // of y
  int depth;
  int steps;   // slots that each warp needs for a tile
  int groups;  // of 8 weight rows, in a tile
  int width;   // columns of y in a tile
  int tiles;
  int16_t is_gated;
  int16_t
      turns;  // the steps that a block is ahead of the one before it, so that not all read the same
};

/// Of the depth, what block `block` multiplies in its step number `step`.
inline constexpr int turned(const Linear& linear, int step, int block) {
  return linear.turns == 0 ? step : (step + linear.turns * block) % linear.steps;
}

/// Words of values between blocks (exchange.cuh): where a layer's are, of [size] words. Those up to
/// `late` have been read by all when gate and up have their x, the others in the layer behind.
struct WordLayout {
  int linears[kLayerKinds];  // what the linear of that kind makes, [rows, columns / 2]
  int attended;              // [rows, heads * head size / 2]
  int partial;               // [blocks, heads of a kv head * (head size + 2)]
  int xs[kLayerKinds];       // what the linear of that kind reads; below zero: in the layer before
  int late;
  int size;
};

struct LayerPointers {
  const void* norms[2];  // [hidden], ahead of qkv and of gate and up
  const void* qkv_bias;  // or null
  void* cache;
};

struct RunPointers {
  const void* x;    // [rows, hidden]
  void* y;          // [rows, hidden], of the last layer
  float* logits;    // [rows, vocabulary], with a head
  uint32_t* words;  // [layers][layout.size]
  int num_layers;
  bool has_head;
};

struct LayerArgs {
  CUtensorMap weights[kLayerKinds];
  LayerPointers pointers;
};

struct Args {
  LayerArgs layers[kMaxRunLayers];
  CUtensorMap head_weights;
  Linear linears[kNumKinds];
  RunPointers pointers;
  const void* head_norm;
  const float* cos_sin;  // [rows, 2, head size / 2]
  const int32_t* block_tables;
  const int32_t* kv_lengths;
  int64_t block_stride, value_offset;  // of a cache, elements
  int max_blocks, tokens_per_block;
  int rows;
  int num_heads, num_kv_heads;
  int max_parts;  // blocks that share a kv head's keys, a power of 2
  float scale;    // to exponents of 2
  float epsilon;
  int slots, window;  // as narrow::Args has them
  uint32_t zero;      // as narrow::Ring has it
  int x_bytes;        // of a warp, as its share of a norm's weight
  int g_bytes;
  int turn_bytes;             // for the warps' sums of a tile, of which there are two
  int kept_log2, round_log2;  // as ComingX has it, of x with and without a norm
  uint32_t* num_left;         // blocks that have left
  WordLayout layout;
};

/// A block's part of each layer's attention.
struct AttentionItem {
  int16_t row;  // -1: none
  int16_t num_parts, kv_head, part;
  int keys, first_of_item;
  int begin, end;  // tiles
};

struct Shared {
  // Of the arguments, which are slow to read for the first time. What lies here costs no register
  // from linear to linear: one in local memory takes as long as the L2 beside a stream of copies.
  LayerPointers layers[kMaxRunLayers];
  Linear linears[kNumKinds];
  RunPointers pointers;
  WordLayout layout;
  AttentionItem attention;
  uint64_t full[kWarps][kMaxSlots];
  uint64_t empty[kWarps][kMaxSlots];
  float squares[2][kWarps][kMaxRunRows];
};

}  // namespace inflight::cuda::decoder
