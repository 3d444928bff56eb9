#include "kernels/gemm/gemm.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const LinearParams& p) {
  check_dense("linear: x", p.x, {-1, -1});
  check_dense("linear: weight", p.weight, {-1, p.x.shape[1]});
  check_dense("linear: y", p.y, {p.x.shape[0], p.weight.shape[0]});
  check(p.x.shape[1] > 0, "linear: x has no columns");
  check_floating("linear: x", p.x);
  check_floating("linear: weight", p.weight);
  check_floating("linear: y", p.y);
  if (p.bias) {
    check_dense("linear: bias", p.bias, {p.weight.shape[0]});
    check_floating("linear: bias", p.bias);
  }
}

LinearParams params_of(const OpArgs& args) {
  return {.x = args.tensor("x"),
          .weight = args.tensor("weight"),
          .bias = args.optional_tensor("bias"),
          .y = args.tensor("y")};
}

}  // namespace

void linear(const LinearParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(linear, params, context);
}

OpDef linear_op() {
  return {
      .name = "linear",
      .signature = {.inputs = {{"x"}, {"weight"}, {.name = "bias", .optional = true}},
                    .outputs = {{"y"}},
                    .attributes = {}},
      .check = [](const OpArgs& args) { check_params(params_of(args)); },
      .workspace_bytes =
          [](const OpArgs& args, Device device, int num_threads) {
#ifdef INFLIGHT_CUDA
            if (device.type == DeviceType::kCuda)
              return cuda::linear_workspace_bytes(params_of(args));
#endif
            return cpu::linear_workspace_bytes(params_of(args), num_threads);
          },
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { linear(params, context); };
      },
  };
}

}  // namespace inflight
