// One thread block a row; the row waits in shared memory between the sum of its squares and its
// scaling, so every element crosses the device memory once.
#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/core/cuda/reduce.cuh"
#include "kernels/core/cuda/vec.cuh"
#include "kernels/rms_norm/rms_norm.h"

namespace inflight::cuda {
namespace {

constexpr int kMaxThreads = 512;

/// `residual` and `sum` are null in the plain norm; `sum` may be null in the other. Dynamic shared
/// memory: weight[size], then row[size].
template <typename T, int kVec>
__global__ void __launch_bounds__(kMaxThreads)
    rms_norm_kernel(const T* x, const T* residual, const T* weight, T* y, T* sum, int size,
                    float epsilon) {
  using V = Vec<T, kVec>;
  extern __shared__ uint4 shared[];
  __shared__ float partial_sums[32];
  V* weights = reinterpret_cast<V*>(shared);
  const int count = size / kVec;
  V* row = weights + count;
  // Each thread reads back only what it wrote itself: no barrier needed for either array.
  for (int i = threadIdx.x; i < count; i += blockDim.x)
    weights[i] = load_vec<T, kVec>(weight + i * kVec);
  let_next_start();
  wait_for_previous();
  const int64_t offset = int64_t{blockIdx.x} * size;
  float squares = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    V v = load_vec<T, kVec>(x + offset + i * kVec);
    if (residual != nullptr) {
      const V r = load_vec<T, kVec>(residual + offset + i * kVec);
#pragma unroll
      for (int j = 0; j < kVec; ++j) v[j] = from_float<T>(to_float(v[j]) + to_float(r[j]));
      if (sum != nullptr) store_vec<T, kVec>(sum + offset + i * kVec, v);
    }
    row[i] = v;
#pragma unroll
    for (int j = 0; j < kVec; ++j) squares += to_float(v[j]) * to_float(v[j]);
  }
  const float mean = block_sum(squares, partial_sums) / static_cast<float>(size);
  const float scale = 1.0f / sqrtf(mean + epsilon);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    const V v = row[i], w = weights[i];
    V out;
#pragma unroll
    for (int j = 0; j < kVec; ++j)
      out[j] = from_float<T>(to_float(w[j]) * rounded<T>(to_float(v[j]) * scale));
    store_vec<T, kVec>(y + offset + i * kVec, out);
  }
}

template <typename T, int kVec>
void run(const TensorView& x, const T* residual, const TensorView& weight, const TensorView& y,
         T* sum, float epsilon, const OpContext& context) {
  const auto size = static_cast<int>(x.shape[1]);
  const int threads = std::clamp((size / kVec + 31) / 32 * 32, 32, kMaxThreads);
  const size_t shared_bytes = 2 * static_cast<size_t>(size) * sizeof(T);
  const auto kernel = rms_norm_kernel<T, kVec>;
  allow_shared_bytes(kernel, shared_bytes + 32 * sizeof(float));
  launch(kernel, {dim3(static_cast<unsigned>(x.shape[0])), dim3(threads), shared_bytes}, context,
         x.as<const T>(), residual, weight.as<const T>(), y.as<T>(), sum, size, epsilon);
}

void norm(const TensorView& x, const TensorView& residual, const TensorView& weight,
          const TensorView& y, const TensorView& sum, float epsilon, const OpContext& context) {
  with_floating(x.dtype, [&]<typename T>() {
    const int64_t size = x.shape[1];
    bool vectors = true;
    for (const TensorView* view : {&x, &residual, &weight, &y, &sum})
      vectors = vectors && is_vectorizable<T>(view->data, size);
    (vectors ? run<T, kVecSize<T>> : run<T, 1>)(x, residual.as<const T>(), weight, y, sum.as<T>(),
                                                epsilon, context);
  });
}

}  // namespace

void rms_norm(const RmsNormParams& params, OpContext& context) {
  norm(params.x, {}, params.weight, params.y, {}, params.epsilon, context);
}

void add_rms_norm(const AddRmsNormParams& params, OpContext& context) {
  norm(params.x, params.residual, params.weight, params.y, params.sum, params.epsilon, context);
}

}  // namespace inflight::cuda
