// A generation step's layers in one grid of a thread block to a multiprocessor. One warp of a block
// copies all weights that the block multiplies, from the first layer's to the last one's, and never
// waits but for room in the consumers' rings: weights do not change. The consumers wait for x,
// which blocks tell each other in words that say themselves whether they are there (exchange.cuh),
// while the rings fill. Products are those of the narrow product (kernels/gemm/narrow.cu), which
// also says why a window of copies is kept and (narrow.cuh) why blocks may wait for each other.
#include <algorithm>
#include <numbers>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/device.h"
#include "kernels/decoder_run/attend.cuh"
#include "kernels/decoder_run/feed.cuh"
#include "kernels/decoder_run/linears.cuh"
#include "kernels/gemm/tensor_map.h"

namespace inflight::cuda {
namespace decoder {

/// As ComingX has them, of steps of one and of two rows; kMaxRunRows of more. What lies between two
/// linears is as long as its instructions are many. (With 4 beside heads of 128 registers spill.)
constexpr int kPiecesOfOne = 2;
template <int kHeadSize>
constexpr int kPiecesOfTwo = kHeadSize == 64 ? 4 : kMaxRunRows;
/// As Linears has it, of more rows than two beside heads of 64, where registers are left: a hidden
/// size of up to 2,048.
constexpr int kHeldOfMore = 8;
/// Blocks differ by that in where they begin down's x, of which all read all.
constexpr int kTurns = 2;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Whole groups of four warps each.
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
}
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
}

/// Leaves zeros in `count` words, which is a multiple of 4; thread `thread` of `threads`.
__device__ __forceinline__ void clear(uint32_t* words, int count, int thread, int threads) {
#pragma unroll 1
  for (int i = thread * 4; i < count; i += threads * 4)
    *reinterpret_cast<uint4*>(words + i) = uint4{};
}

/// Words that all blocks have read when gate and up of `layer`, or the head behind the last one,
/// have their x; the caller has it. All consumers of the blocks that have such tiles.
__device__ __forceinline__ void clear_read(const Args& args, int layer, int tiles) {
  const WordLayout& layout = args.layout;
  const int before = layer > 0 ? layout.size - layout.late : 0;
  // The head reads the last layer's y, as others may yet do.
  const int behind =
      layer < args.pointers.num_layers ? layout.late : layout.linears[kDown] - layout.size;
  clear(args.pointers.words + int64_t{layer} * layout.size - before, before + behind,
        blockIdx.x * kConsumers + threadIdx.x,
        min(tiles, static_cast<int>(gridDim.x)) * kConsumers);
}

/// The rest of them. The first warp of each block, when its consumers have read all they read.
__device__ __forceinline__ void clear_last(const Args& args) {
  uint32_t left = 0;
  if (threadIdx.x == 0) left = atomicInc(args.num_left, gridDim.x - 1);
  if (__shfl_sync(0xffffffffu, left, 0) != gridDim.x - 1) return;
  const WordLayout& layout = args.layout;
  const int first = args.pointers.has_head ? layout.linears[kDown] : layout.late;
  clear(args.pointers.words + int64_t{args.pointers.num_layers - 1} * layout.size + first,
        layout.size - first, threadIdx.x, 32);
}

template <typename T, int kHeadSize, int kPieces, int kHeld>
__device__ __forceinline__ void consume(const Args& args, Shared& shared, uint8_t* slots) {
  uint8_t* xs = slots + kWarps * args.slots * kSlotBytes;
  auto* cos_sin =
      reinterpret_cast<float*>(xs + kWarps * (args.x_bytes + args.g_bytes) + 2 * args.turn_bytes);
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < args.pointers.num_layers) shared.layers[thread] = args.layers[thread].pointers;
  if (thread < kNumKinds) shared.linears[thread] = args.linears[thread];
  if (thread == 0) {
    shared.pointers = args.pointers;
    shared.layout = args.layout;
  }
  wait_for_previous();
  for (int i = thread; i < args.rows * kHeadSize; i += kConsumers)
    cos_sin[i] = __ldcg(args.cos_sin + i);
  // With one more tile of keys registers spill, all over the kernel: 8 us a layer of one row.
  constexpr int kTiles = kPieces == kPiecesOfOne ? 128 / kHeadSize : 1;
  Attention<T, kHeadSize, kTiles> attention(args, shared.attention, cos_sin);
  narrow::meet<1>(kConsumers);
  attention.find_keys();
  Linears<T, kPieces, kHeld> linears(args, shared, slots, xs);
  linears.start();
  linears.load_norm(shared.linears[kQkv], shared.layers[0].norms[0]);
  const int last = args.pointers.num_layers * kLayerKinds;
#pragma unroll 1
  for (int i = 0; i < last + (args.pointers.has_head ? 1 : 0); ++i) {
    const int layer = i / kLayerKinds, kind = i == last ? kHead : i % kLayerKinds;
    const LinearCall<kHeld> call{layer, kind};
    if (kind == kQkv) {
      attention.prefetch(shared.layers[layer].cache);
    } else if (kind == kOutput) {
      const LinearCall<kHeld> qkv{layer, kQkv};
      uint32_t* words = shared.pointers.words + layer * shared.layout.size;
      attention.run(shared.layers[layer].cache, qkv.words(shared), linears.scratch(),
                    {words + shared.layout.attended, call.of_x(shared, args.rows),
                     words + shared.layout.partial});
    }
    // The next one's weight comes while this linear waits for its x.
    if (kind == kOutput) {
      linears.load_norm(shared.linears[kGateUp], shared.layers[layer].norms[1]);
    } else if (kind == kDown && (i + 1 < last || args.pointers.has_head)) {
      linears.load_norm(shared.linears[i + 1 < last ? kQkv : kHead],
                        i + 1 < last ? shared.layers[layer + 1].norms[0] : args.head_norm);
    }
    linears.run(call);
    if ((kind == kGateUp || kind == kHead) && blockIdx.x < shared.linears[kind].tiles)
      clear_read(args, layer, shared.linears[kind].tiles);
  }
  if (thread < 32) clear_last(args);
}

#endif

/// kPieces and kHeld as Linears has them.
template <typename T, int kHeadSize, int kPieces, int kHeld>
__global__ void __launch_bounds__(kThreads, 1) decoder_kernel(const __grid_constant__ Args args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ uint8_t unaligned[];
  uint8_t* slots = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  __shared__ Shared shared;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) let_next_start();
  if (warp >= kWarps) {
    give_registers();
    if (warp > kWarps) return narrow::pass<3>(kThreads);
    // Nothing must keep the first copies waiting.
    if (lane < kWarps) {
      for (int slot = 0; slot < args.slots; ++slot) {
        init_barrier(&shared.full[lane][slot], 1);
        init_barrier(&shared.empty[lane][slot], 1);
      }
    } else if (lane == kWarps) {
      prefetch_map(args.layers[0].weights[0]);
    }
    publish_barriers();
    __syncwarp();
    narrow::pass<3>(kThreads);
    if (lane < kWarps) Feeder(args, shared, slots, lane).run();
  } else {
    take_registers();
    narrow::meet<3>(kThreads);
    consume<T, kHeadSize, kPieces, kHeld>(args, shared, slots);
  }
#endif
}

constexpr int kMaxParts = 16;
constexpr int64_t kAlignment = 64;  // words
constexpr size_t kWordsAt = 256;    // bytes, behind what counts blocks

Linear linear_of(int64_t columns, int64_t depth, bool is_gated, int groups) {
  const int width = groups * narrow::kGroupColumns / (is_gated ? 2 : 1);
  const int step_depth = narrow::chunks_of(groups) * 64 * kWarps;
  return {.columns = static_cast<int>(columns),
          .depth = static_cast<int>(depth),
          .steps = static_cast<int>((depth + step_depth - 1) / step_depth),
          .groups = groups,
          .width = width,
          .tiles = static_cast<int>((columns + width - 1) / width),
          .is_gated = is_gated};
}

int max_parts(int64_t rows, int64_t num_kv_heads, int blocks) {
  int parts = 1;
  while (parts < kMaxParts && rows * num_kv_heads * parts * 2 <= blocks) parts *= 2;
  return parts;
}

/// Measured on an H200: an 8B's layer takes 114 us of 4 rows and 2 more of each further one, by ops
/// one by one 117 of 8. Of a narrow one's more do not fit.
int64_t max_rows(const DecoderRunParams& p) {
  constexpr int64_t kNarrow = 2048, kMaxWideRows = 4;
  return p.x->shape[1] <= kNarrow ? kMaxRunRows : kMaxWideRows;
}

/// Of a step of `rows`.
WordLayout layout_of(const DecoderRunParams& p, int64_t rows, int blocks) {
  WordLayout layout;
  int64_t at = 0;
  const auto place = [&](int64_t count) {
    const auto begin = static_cast<int>(at);
    at += (count + kAlignment - 1) / kAlignment * kAlignment;
    return begin;
  };
  const DecoderLayerParams& layer = p.layers[0];
  layout.linears[kQkv] = place(rows * layer.qkv->shape[0] / 2);
  layout.attended = place(rows * layer.output->shape[1] / 2);
  layout.partial = place(blocks * (p.num_heads / p.num_kv_heads) * (p.head_size + 2));
  layout.late = static_cast<int>(at);
  layout.linears[kOutput] = place(rows * layer.output->shape[0] / 2);
  layout.linears[kGateUp] = place(rows * layer.down->shape[1] / 2);
  layout.linears[kDown] = place(rows * layer.down->shape[0] / 2);
  layout.size = static_cast<int>(at);
  layout.xs[kQkv] = layout.linears[kDown] - layout.size;
  layout.xs[kOutput] = layout.attended;
  layout.xs[kGateUp] = layout.linears[kOutput];
  layout.xs[kDown] = layout.linears[kGateUp];
  return layout;
}

/// False: a thread block has too little shared memory, or too few have parts of the residual.
template <typename T, int kHeadSize>
bool launch_run(const DecoderRunParams& p, void* memory, OpContext& context) {
  const int blocks = context.num_multiprocessors;
  const int64_t rows = p.x->shape[0];
  const DecoderLayerParams& shapes = p.layers[0];
  const int64_t hidden = p.x->shape[1], inner = shapes.down->shape[1];
  Args args{};
  const int pieces = rows == 1 ? kPiecesOfOne : rows == 2 ? kPiecesOfTwo<kHeadSize> : kMaxRunRows;
  while (rows << (args.kept_log2 + 1) <= pieces) ++args.kept_log2;
  args.round_log2 = std::min(args.kept_log2, 1);
  bool is_held = kHeadSize == 64 && pieces == kMaxRunRows;
  const auto set = [&](Kind kind, int64_t columns, int64_t depth, bool is_gated, int groups) {
    args.linears[kind] = linear_of(columns, depth, is_gated, groups);
    const bool is_normed = kind == kQkv || kind == kGateUp || kind == kHead;
    const int bytes = args.linears[kind].steps * narrow::chunks_of(groups) * 128;  // of a row
    const int kept = is_normed ? bytes : std::min(bytes, 512 << args.round_log2);
    is_held = is_held && bytes / 2 * kWarps == depth && (!is_normed || bytes / 64 <= kHeldOfMore);
    args.x_bytes = std::max(args.x_bytes, kept * static_cast<int>(rows));
    if (is_normed) args.g_bytes = std::max(args.g_bytes, bytes);
  };
  const auto groups_of = [&](int64_t columns, bool is_gated) {
    return narrow_groups(columns, is_gated, blocks);
  };
  const int64_t qkv_columns = shapes.qkv->shape[0];
  set(kQkv, qkv_columns, hidden, false, groups_of(qkv_columns, false));
  set(kOutput, hidden, p.num_heads * p.head_size, false, groups_of(hidden, false));
  set(kGateUp, inner, hidden, true, groups_of(inner, true));
  set(kDown, hidden, inner, false, groups_of(hidden, false));
  if (args.linears[kDown].tiles > blocks) return false;
  // The first ones are waited for all at once.
  if (is_held && args.linears[kDown].steps > kStepsAhead) args.linears[kDown].turns = kTurns;
  const auto num_layers = static_cast<int>(p.layers.size());
  for (int i = 0; i < num_layers; ++i) {
    const DecoderLayerParams& layer = p.layers[i];
    LayerArgs& to = args.layers[i];
    const TensorView* weights[] = {layer.qkv, layer.output, layer.gate_up, layer.down};
    for (int kind = 0; kind < kLayerKinds; ++kind) {
      const Linear& linear = args.linears[kind];
      to.weights[kind] =
          tensor_map_of_chunks(*weights[kind], linear.width, narrow::chunks_of(linear.groups));
    }
    to.pointers = {.norms = {layer.input_norm->data, layer.post_norm->data},
                   .qkv_bias = layer.qkv_bias->data,
                   .cache = layer.kv_cache->data};
  }
  if (p.head != nullptr) {
    set(kHead, p.head->shape[0], hidden, false, 2);  // narrow tiles end together
    args.head_weights = tensor_map_of_chunks(*p.head, args.linears[kHead].width, 2);
    args.head_norm = p.head_norm->data;
  }
  args.cos_sin = p.cos_sin->as<float>();
  args.block_tables = p.block_tables->as<int32_t>();
  args.kv_lengths = p.kv_lengths->as<int32_t>();
  args.block_stride = shapes.kv_cache->strides[0];
  args.value_offset = shapes.kv_cache->strides[1];
  args.max_blocks = static_cast<int>(p.block_tables->shape[1]);
  args.tokens_per_block = static_cast<int>(shapes.kv_cache->shape[3]);
  args.rows = static_cast<int>(rows);
  args.num_heads = static_cast<int>(p.num_heads);
  args.num_kv_heads = static_cast<int>(p.num_kv_heads);
  args.max_parts = max_parts(rows, p.num_kv_heads, blocks);
  args.scale = p.scale * std::numbers::log2e_v<float>;
  args.epsilon = p.epsilon;
  args.num_left = static_cast<uint32_t*>(memory);
  args.pointers = {.x = p.x->data,
                   .y = p.y->data,
                   .logits = p.head != nullptr ? p.logits->as<float>() : nullptr,
                   .words = reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(memory) + kWordsAt),
                   .num_layers = num_layers,
                   .has_head = p.head != nullptr};
  args.layout = layout_of(p, rows, blocks);

  const int heads = args.num_heads / args.num_kv_heads;
  args.turn_bytes = kWarps * args.rows * kPartColumns * static_cast<int>(sizeof(float));
  if (is_held) {
    args.x_bytes = 0;
    args.turn_bytes = std::max(args.turn_bytes, attention_bytes(heads, kHeadSize));
  } else {
    const int attention = (attention_bytes(heads, kHeadSize) + kWarps - 1) / kWarps;
    args.x_bytes = std::max(args.x_bytes, (attention + 15) / 16 * 16);
  }
  // cos_sin, and a key and a value.
  const int of_attention = (args.rows + 1) * kHeadSize * static_cast<int>(sizeof(float));
  const int apart =
      1024 + kWarps * (args.x_bytes + args.g_bytes) + 2 * args.turn_bytes + of_attention;
  constexpr int kRoom = (227 << 10) - static_cast<int>(sizeof(Shared) + 127) / 128 * 128;
  args.slots = std::min((kRoom - apart) / (kWarps * kSlotBytes), kMaxSlots);
  if (args.slots < 2) return false;
  args.window = std::max(plan_narrow(blocks).window, kWarps);
  if (args.window > (args.slots - 1) * kWarps) args.window = args.slots * kWarps;
  auto kernel = rows == 1   ? decoder_kernel<T, kHeadSize, kPiecesOfOne, 0>
                : rows == 2 ? decoder_kernel<T, kHeadSize, kPiecesOfTwo<kHeadSize>, 0>
                            : decoder_kernel<T, kHeadSize, kMaxRunRows, 0>;
  if constexpr (kHeadSize == 64) {
    if (is_held) kernel = decoder_kernel<T, kHeadSize, kMaxRunRows, kHeldOfMore>;
  }
  allow_shared_bytes(kernel, kRoom);
  launch(kernel,
         {.grid = dim3(static_cast<unsigned>(blocks)),
          .block = dim3(kThreads),
          .shared_bytes = apart + size_t{kWarps} * args.slots * kSlotBytes},
         context, args);
  return true;
}

/// Whether a matrix can be copied in boxes of 64 of the depth.
bool suits(const TensorView& weight, int64_t depth) {
  return weight.dtype == DType::kBFloat16 && depth % 64 == 0 && weight.shape[1] == depth &&
         reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
}

bool suits(const DecoderRunParams& p, const OpContext& context) {
  const int64_t rows = p.x->shape[0], hidden = p.x->shape[1];
  const int64_t blocks = context.num_multiprocessors;
  if (!context.grids_may_wait || context.compute_capability != 90 || rows > max_rows(p) ||
      rows != p.kv_lengths->shape[0] || p.x->dtype != DType::kBFloat16 || hidden % 64 != 0)
    return false;
  const int64_t heads_size = p.num_heads * p.head_size, heads = p.num_heads / p.num_kv_heads;
  if ((p.head_size != 64 && p.head_size != 128) || heads > 8 || p.num_heads % p.num_kv_heads != 0 ||
      p.cos_sin->shape[1] != p.head_size || rows * p.num_kv_heads > blocks)
    return false;
  const DecoderLayerParams& first = p.layers[0];
  const int64_t inner = first.down->shape[1];
  const TensorView& cache = *first.kv_cache;
  const auto is_norm = [&](const TensorView& norm) {
    return norm.dtype == DType::kBFloat16 && reinterpret_cast<uintptr_t>(norm.data) % 16 == 0;
  };
  for (const DecoderLayerParams& layer : p.layers) {
    const TensorView& own = *layer.kv_cache;
    if (!suits(*layer.qkv, hidden) || !suits(*layer.output, heads_size) ||
        !suits(*layer.gate_up, hidden) || !suits(*layer.down, inner) ||
        !is_norm(*layer.input_norm) || !is_norm(*layer.post_norm) ||
        (*layer.qkv_bias && layer.qkv_bias->dtype != DType::kBFloat16) ||
        own.dtype != DType::kBFloat16 || own.shape[3] != cache.shape[3] ||
        own.strides[0] != cache.strides[0] || own.strides[1] != cache.strides[1])
      return false;
  }
  if (cache.shape[3] % decode::kTileKeys != 0 || cache.strides[0] % 8 != 0) return false;
  if (p.head != nullptr && (!suits(*p.head, hidden) || !is_norm(*p.head_norm))) return false;
  return true;
}

}  // namespace decoder

size_t decoder_run_memory_bytes(const DecoderRunParams& params, Device device) {
  const decoder::WordLayout layout = decoder::layout_of(params, decoder::max_rows(params),
                                                        device_facts(device).num_multiprocessors);
  return decoder::kWordsAt + params.layers.size() * layout.size * sizeof(uint32_t);
}

bool decoder_run(const DecoderRunParams& params, void* memory, OpContext& context) {
  if (!decoder::suits(params, context)) return false;
  if (params.head_size == 64)
    return decoder::launch_run<__nv_bfloat16, 64>(params, memory, context);
  return decoder::launch_run<__nv_bfloat16, 128>(params, memory, context);
}

}  // namespace inflight::cuda
