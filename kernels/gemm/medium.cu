#include <array>
#include <utility>

#include "kernels/gemm/medium.cuh"

namespace inflight::cuda {
namespace {

using Launch = void (*)(const LinearParams&, const TensorView&, const OpContext&);

template <typename T, size_t... kIndex>
constexpr std::array<Launch, sizeof...(kIndex)> launches(std::index_sequence<kIndex...>) {
  return {medium::launch_medium<T, kMediumPlans[kIndex]>...};
}
template <typename T>
constexpr auto kLaunches = launches<T>(std::make_index_sequence<std::size(kMediumPlans)>());

}  // namespace

bool medium_product(const LinearParams& p, const TensorView& residual, bool is_gated,
                    const OpContext& context) {
  const DType dtype = p.x.dtype;
  if (context.compute_capability != 90 || dtype == DType::kFloat32 || p.weight.dtype != dtype ||
      p.y.dtype != dtype || p.bias || !is_aligned(p.x) || !is_aligned(p.weight) ||
      !is_aligned(p.y) || (residual && !is_aligned(residual)))
    return false;
  const int plan = plan_medium({.rows = p.x.shape[0],
                                .columns = p.y.shape[1],
                                .depth = p.x.shape[1],
                                .is_gated = is_gated,
                                .num_multiprocessors = context.num_multiprocessors});
  if (plan < 0) return false;
  const auto& launch = dtype == DType::kFloat16 ? kLaunches<__half> : kLaunches<__nv_bfloat16>;
  launch[plan](p, residual, context);
  return true;
}

}  // namespace inflight::cuda
