// The likeliest token of each row of logits.
#pragma once

#include "kernels/core/op.h"
#include "kernels/sampling/outcome.h"

namespace inflight {

/// Ties go to the lowest id. kBadLogits or kNoToken where there is no answer (outcome.h).
struct ArgmaxParams {
  TensorView logits;  // [B, V] float32, rows dense
  TensorView tokens;  // [B] int32 or longer, the first B written
};

/// On the CPU; none on CUDA.
size_t argmax_workspace_bytes(int64_t vocab_size, int num_threads);
void argmax(const ArgmaxParams& params, OpContext& context);

namespace cuda {
void argmax(const ArgmaxParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
