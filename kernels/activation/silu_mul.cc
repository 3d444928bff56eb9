#include "kernels/activation/silu_mul.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const SiluMulParams& p) {
  check_dense("silu_mul: y", p.y, {-1, -1});
  check_dense("silu_mul: gate_up", p.gate_up, {p.y.shape[0], 2 * p.y.shape[1]});
  check_floating("silu_mul: gate_up", p.gate_up);
  check_dtype("silu_mul: y", p.y, p.gate_up.dtype);
}

SiluMulParams params_of(const OpArgs& args) {
  return {.gate_up = args.tensor("gate_up"), .y = args.tensor("y")};
}

}  // namespace

void silu_mul(const SiluMulParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(silu_mul, params, context);
}

OpDef silu_mul_op() {
  return {
      .name = "silu_mul",
      .signature = {.inputs = {{"gate_up"}}, .outputs = {{"y"}}, .attributes = {}},
      .check = [](const OpArgs& args) { check_params(params_of(args)); },
      .workspace_bytes = no_workspace,
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { silu_mul(params, context); };
      },
  };
}

}  // namespace inflight
