#include <algorithm>

#include "kernels/core/cuda/launch.cuh"
#include "kernels/sampling/logit_bias.h"

namespace inflight::cuda {
namespace {

constexpr int kThreads = 512;

/// A block a row; ids and biases are the step's inputs.
__global__ void __launch_bounds__(kThreads)
    logit_bias_kernel(float* logits, int64_t stride, int length, const int32_t* rows,
                      const int32_t* ids, const float* biases, const int32_t* starts) {
  let_next_start();
  const int i = blockIdx.x;
  float* const row = logits + rows[i] * stride;
  const int end = starts[i + 1];
  wait_for_previous();
  for (int at = starts[i] + static_cast<int>(threadIdx.x); at < end; at += kThreads) {
    const int32_t id = ids[at];
    if (static_cast<unsigned>(id) < static_cast<unsigned>(length)) row[id] += biases[at];
  }
}

}  // namespace

void logit_bias(const LogitBiasParams& p, OpContext& context) {
  launch(logit_bias_kernel, {dim3(static_cast<unsigned>(p.rows.shape[0])), dim3(kThreads)}, context,
         p.logits.as<float>(), p.logits.strides[0], static_cast<int>(p.logits.shape[1]),
         p.rows.as<int32_t>(), p.ids.as<int32_t>(), p.biases.as<float>(), p.starts.as<int32_t>());
}

}  // namespace inflight::cuda
