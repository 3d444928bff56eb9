#include "kernels/gemm/blas.h"

#include <cblas.h>

#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"

namespace inflight::cpu {
namespace {

template <typename W>
INFLIGHT_VECTORIZED void widen(float* y, const W* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = to_float(x[i]);
}

void use_one_thread() {
  static const bool once = (scipy_openblas_set_num_threads(1), true);
  static_cast<void>(once);
}

}  // namespace

void blas_product(const DotArgs& args, DType weight, float* slab) {
  use_one_thread();
  const float* floats = static_cast<const float*>(args.weight);
  if (weight != DType::kFloat32) {
    dispatch_floating(weight, [&]<typename W>(W) {
      widen(slab, static_cast<const W*>(args.weight), args.columns * args.depth);
    });
    floats = slab;
  }
  const auto depth = static_cast<blasint>(args.depth);
  scipy_cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(args.rows),
                    static_cast<blasint>(args.columns), depth, 1.0f,
                    static_cast<const float*>(args.x), depth, floats, depth, 0.0f, args.out,
                    static_cast<blasint>(args.out_stride));
}

}  // namespace inflight::cpu
