// Prefill on sm_90a: FlashAttention-3's pipeline (arXiv 2407.08608, section 3) over paged keys and
// values. One warp brings queries, keys and values with bulk tensor copies, a copy per block and 64
// elements of the head; each consumer warpgroup has 64 rows of the tile. While the softmax of a
// warpgroup runs, its previous weights meet their values and the other warpgroup multiplies.
#pragma once

#include "kernels/attention/prefill_consumer.cuh"
#include "kernels/attention/prefill_pipeline.cuh"

namespace inflight::cuda::wgmma {

template <int kHeadSize>
inline constexpr int kThreads = 128 * (PrefillShape<kHeadSize>::kWarpgroups + 1);

template <typename T, int kHeadSize>
__global__ void __launch_bounds__(kThreads<kHeadSize>, 1)
    prefill_wgmma_kernel(const PrefillArgs args, const __grid_constant__ PrefillMaps maps) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = PrefillShape<kHeadSize>;
  extern __shared__ uint8_t memory[];
  Pipeline<kHeadSize> pipeline(memory);
  if (threadIdx.x == 0) pipeline.init();
  __syncthreads();
  let_next_start();
  if (threadIdx.x < 128) {
    hopper::give_registers<Shape::kProducerRegisters>();
    if (threadIdx.x < 32) pipeline.produce(args, maps);
  } else {
    hopper::take_registers<Shape::kConsumerRegisters>();
    Consumer<T, kHeadSize>(pipeline).consume(args);
  }
#else
  __trap();  // chosen on 9.0 only
#endif
}

template <typename T, int kHeadSize>
void launch_prefill(const AttentionParams& params, OpContext& context) {
  using Shape = PrefillShape<kHeadSize>;
  constexpr int kRows = 64 * Shape::kWarpgroups;
  constexpr int kSharedBytes =
      (Shape::kQueryStages * kRows + 2 * Shape::kStages * Shape::kTileKeys) * kHeadSize * 2 + 2048;
  const int64_t tiles = max_prefill_tiles(params, kRows), blocks = context.num_multiprocessors;
  allow_shared_bytes(prefill_wgmma_kernel<T, kHeadSize>, kSharedBytes);
  launch(prefill_wgmma_kernel<T, kHeadSize>,
         {.grid = static_cast<unsigned>(tiles < blocks ? tiles : blocks),
          .block = kThreads<kHeadSize>,
          .shared_bytes = kSharedBytes},
         context, prefill_args(params, kRows), prefill_maps(params, kRows, Shape::kTileKeys));
}

template <typename T>
void launch_prefill(const AttentionParams& params, OpContext& context) {
  switch (params.head_size) {
    case 64:
      return launch_prefill<T, 64>(params, context);
    case 128:
      return launch_prefill<T, 128>(params, context);
    case 256:
      return launch_prefill<T, 256>(params, context);
    default:
      throw Error(ErrorCode::kInternal, concat("prefill: head size ", params.head_size));
  }
}

}  // namespace inflight::cuda::wgmma
