#include "kernels/fused_linear/fused_linear.h"

#include <utility>
#include <vector>

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const FusedLinearParams& p) {
  check_dense("fused_linear: x", p.x, {-1, -1});
  check_dense("fused_linear: weight", p.weight, {-1, p.x.shape[1]});
  const int64_t num_rows = p.x.shape[0], num_columns = p.weight.shape[0];
  check(!p.is_gated || num_columns % 2 == 0,
        "fused_linear: weight must have an even number of rows where gated, got ", num_columns);
  const int64_t width = p.is_gated ? num_columns / 2 : num_columns;
  check_dense("fused_linear: y", p.y, {num_rows, width});
  check(p.x.shape[1] > 0, "fused_linear: x has no columns");
  check_floating("fused_linear: x", p.x);
  check_floating("fused_linear: weight", p.weight);
  check_floating("fused_linear: y", p.y);
  if (p.bias) {
    check_dense("fused_linear: bias", p.bias, {num_columns});
    check_floating("fused_linear: bias", p.bias);
  }
  if (p.norm_weight) {
    check_dense("fused_linear: norm_weight", p.norm_weight, {p.x.shape[1]});
    check_dtype("fused_linear: norm_weight", p.norm_weight, p.x.dtype);
    check(p.epsilon >= 0, "fused_linear: epsilon must not be negative, got ", p.epsilon);
  }
  if (p.residual) {
    check_dense("fused_linear: residual", p.residual, {num_rows, width});
    check_dtype("fused_linear: residual", p.residual, p.y.dtype);
  }
}

FusedLinearParams params_of(const OpArgs& args) {
  const TensorView& norm_weight = args.optional_tensor("norm_weight");
  check(args.has_attribute("epsilon") || !norm_weight,
        "fused_linear: a norm_weight needs an epsilon");
  return {.x = args.tensor("x"),
          .weight = args.tensor("weight"),
          .bias = args.optional_tensor("bias"),
          .norm_weight = norm_weight,
          .residual = args.optional_tensor("residual"),
          .y = args.tensor("y"),
          .epsilon = static_cast<float>(args.attribute_or<double>("epsilon", 0)),
          .is_gated = args.attribute_or<bool>("gated", false)};
}

}  // namespace

void fused_linear(const FusedLinearParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(fused_linear, params, context);
}

void fused_linears(std::span<const FusedLinearParams> run, OpContext& context) {
  while (!run.empty()) {
    size_t done = 0;
#ifdef INFLIGHT_CUDA
    if (context.device.type == DeviceType::kCuda && run.size() > 1) {
      for (const FusedLinearParams& params : run) check_params(params);
      done = cuda::fused_linears_at_once(run, context);
    }
#endif
    if (done == 0) fused_linear(run[done++], context);
    run = run.subspan(done);
  }
}

OpDef fused_linear_op() {
  return {
      .name = "fused_linear",
      .signature = {.inputs = {{"x"},
                               {"weight"},
                               {.name = "bias", .optional = true},
                               {.name = "norm_weight", .optional = true},
                               {.name = "residual", .optional = true}},
                    .outputs = {{"y"}},
                    .attributes = {{.name = "epsilon", .type = "float", .optional = true},
                                   {.name = "gated", .type = "bool", .optional = true}}},
      .check = [](const OpArgs& args) { check_params(params_of(args)); },
      .workspace_bytes =
          [](const OpArgs& args, Device device, int num_threads) {
#ifdef INFLIGHT_CUDA
            if (device.type == DeviceType::kCuda)
              return cuda::fused_linear_workspace_bytes(params_of(args));
#endif
            return cpu::fused_linear_workspace_bytes(params_of(args), num_threads);
          },
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { fused_linear(params, context); };
      },
      .bind_run = [](std::span<const OpArgs> run) -> BoundOp {
        std::vector<FusedLinearParams> params;
        for (const OpArgs& args : run) params.push_back(params_of(args));
        return [params = std::move(params)](OpContext& context) { fused_linears(params, context); };
      },
  };
}

}  // namespace inflight
