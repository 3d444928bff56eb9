// Prefill on sm_90a: FlashAttention-3's pipeline (arXiv 2407.08608, section 3) over paged keys and
// values. One warp brings queries, keys and values with bulk tensor copies, a copy per block and 64
// elements of the head; each consumer warpgroup has 64 rows of the tile. While the softmax of a
// warpgroup runs, its previous weights meet their values and the other warpgroup multiplies.
#pragma once

#include <algorithm>

#include "kernels/attention/prefill_consumer.cuh"
#include "kernels/attention/prefill_pipeline.cuh"

namespace inflight::cuda::wgmma {

template <int kHeadSize>
inline constexpr int kThreads = 128 * (PrefillShape<kHeadSize>::kWarpgroups + 1);

template <typename T, int kHeadSize, bool kDivided, bool kWindow>
__global__ void __launch_bounds__(kThreads<kHeadSize>, 1)
    prefill_wgmma_kernel(const PrefillArgs args, const __grid_constant__ PrefillMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = PrefillShape<kHeadSize>;
  extern __shared__ uint8_t memory[];
  Pipeline<kHeadSize, kDivided, kWindow> pipeline(memory);
  if (threadIdx.x == 0) pipeline.init();
  __syncthreads();
  let_next_start();
  if (threadIdx.x < 128) {
    give_registers<Shape::kProducerRegisters>();
    if (threadIdx.x < 32) pipeline.produce(args, maps);
  } else {
    take_registers<Shape::kConsumerRegisters>();
    Consumer<T, kHeadSize, kDivided, kWindow>(pipeline).consume(args);
  }
#else
  __trap();  // chosen on 9.0 only
#endif
}

/// Divided: tiles among thread blocks, where the last round of the grid would leave many idle.
template <typename T, int kHeadSize, bool kDivided, bool kWindow>
void launch_prefill(const AttentionParams& params, OpContext& context) {
  using Shape = PrefillShape<kHeadSize>;
  constexpr int kRows = 64 * Shape::kWarpgroups;
  constexpr int kPadded = (kHeadSize + 63) / 64 * 64;
  constexpr int kSharedBytes =
      (Shape::kQueryStages * kRows + 2 * Shape::kStages * Shape::kTileKeys) * kPadded * 2 + 2048;
  int64_t blocks = max_prefill_tiles(params, kRows);
  PrefillArgs args = prefill_args(params, context, kRows);
  if constexpr (kDivided) {
    int64_t keys = params.block_tables.shape[1] * params.kv_cache.shape[3];
    if constexpr (kWindow)  // up to two tiles' border keys, and the tokens of a tile of queries
      keys = std::min(keys, params.window + params.num_sinks + 3 * Shape::kTileKeys + kRows);
    blocks *= std::clamp<int64_t>(keys / (kMinKeyTiles * Shape::kTileKeys), 1, kMaxParts);
    args.max_parts = static_cast<int>(std::min<int64_t>(
        prefill_max_parts(context),
        static_cast<int64_t>(context.workspace.bytes / prefill_part_bytes(kHeadSize))));
  }
  blocks = std::min<int64_t>(blocks, context.num_multiprocessors);
  const auto kernel = prefill_wgmma_kernel<T, kHeadSize, kDivided, kWindow>;
  allow_shared_bytes(kernel, kSharedBytes);
  launch(kernel,
         {.grid = static_cast<unsigned>(blocks),
          .block = kThreads<kHeadSize>,
          .shared_bytes = kSharedBytes},
         context, args, prefill_maps(params, kRows, Shape::kTileKeys));
}

template <typename T, int kHeadSize, bool kWindow>
void launch_prefill(const AttentionParams& params, OpContext& context) {
  constexpr int kRows = 64 * PrefillShape<kHeadSize>::kWarpgroups;
  if (prefill_divides(params, context, kRows))
    return launch_prefill<T, kHeadSize, true, kWindow>(params, context);
  launch_prefill<T, kHeadSize, false, kWindow>(params, context);
}

template <typename T, bool kWindow>
void launch_prefill(const AttentionParams& params, OpContext& context) {
  with_head_size(params.head_size,
                 [&]<int kHeadSize>() { launch_prefill<T, kHeadSize, kWindow>(params, context); });
}

}  // namespace inflight::cuda::wgmma
