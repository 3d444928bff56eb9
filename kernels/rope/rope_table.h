// Cosines and sines of the rotary position embedding for each token: once a step, for all layers.
#pragma once

#include <optional>
#include <vector>

#include "kernels/core/op.h"

namespace inflight {

/// Dynamic NTK scaling: the base grows with the sequence.
struct DynamicRope {
  double base;    // rope_theta
  double factor;  // how many times longer than trained
  int64_t original_max_position;
};

struct RopeTableParams {
  const TensorView& positions;  // [T] int32
  // [T] int32: the sequence length that decides the scaling of the token's row; only dynamic reads
  // it.
  const TensorView& rope_lengths;
  const TensorView& cos_sin;    // [T, R] float32: R/2 cosines, then R/2 sines, both scaled
  std::vector<float> inv_freq;  // [R/2]
  float attention_scaling;      // factor of all cosines and sines
  std::optional<DynamicRope> dynamic;
};

void rope_table(const RopeTableParams& params, OpContext& context);

/// Of a row of a plan.
RopeTableParams rope_table_params(const OpArgs& args);

OpDef rope_table_op();

namespace cpu {
void rope_table(const RopeTableParams& params, OpContext& context);
}

namespace cuda {
void rope_table(const RopeTableParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
