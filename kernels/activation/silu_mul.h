// The gated activation of the MLP: silu(gate) * up, where silu(g) = g / (1 + exp(-g)).
#pragma once

#include "kernels/core/op.h"

namespace inflight {

struct SiluMulParams {
  const TensorView& gate_up;  // [T, 2I] floating: I gate columns, then I up columns
  const TensorView& y;        // [T, I], dtype of gate_up
};

void silu_mul(const SiluMulParams& params, OpContext& context);

OpDef silu_mul_op();

namespace cpu {
void silu_mul(const SiluMulParams& params, OpContext& context);
}

namespace cuda {
void silu_mul(const SiluMulParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
