#include "kernels/core/cuda/launch.cuh"
#include "kernels/sampling/top_p_reset.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 256;

/// Never calls let_next_start(): `sample` reads top_ps before it waits.
__global__ void __launch_bounds__(kThreads)
    top_p_reset_kernel(float* top_ps, const int32_t* entries, const int32_t* newest,
                       const int32_t* reset_ids, const float* first_top_ps,
                       const int32_t* previous_tokens, int count) {
  wait_for_previous();
  const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  if (i < count && previous_tokens[newest[i]] == reset_ids[i]) top_ps[entries[i]] = first_top_ps[i];
}

}  // namespace

void top_p_reset(const TopPResetParams& p, OpContext& context) {
  const auto count = static_cast<int>(p.entries.shape[0]);
  launch(top_p_reset_kernel, {dim3((count + kThreads - 1) / kThreads), dim3(kThreads)}, context,
         p.top_ps.as<float>(), p.entries.as<int32_t>(), p.newest.as<int32_t>(),
         p.reset_ids.as<int32_t>(), p.first_top_ps.as<float>(), p.previous_tokens.as<int32_t>(),
         count);
}

}  // namespace inflight::cuda
