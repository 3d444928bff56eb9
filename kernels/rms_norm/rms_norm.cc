#include "kernels/rms_norm/rms_norm.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const RmsNormParams& p) {
  check_dense("rms_norm: x", p.x, {-1, -1});
  check_dense("rms_norm: weight", p.weight, {p.x.shape[1]});
  check_dense("rms_norm: y", p.y, {p.x.shape[0], p.x.shape[1]});
  check_floating("rms_norm: x", p.x);
  check_dtype("rms_norm: weight", p.weight, p.x.dtype);
  check_dtype("rms_norm: y", p.y, p.x.dtype);
  check(p.epsilon >= 0, "rms_norm: epsilon must not be negative, got ", p.epsilon);
}

void check_params(const AddRmsNormParams& p) {
  const int64_t num_tokens = p.x.shape[0], hidden_size = p.x.shape[1];
  check_dense("add_rms_norm: x", p.x, {-1, -1});
  check_dense("add_rms_norm: residual", p.residual, {num_tokens, hidden_size});
  check_dense("add_rms_norm: weight", p.weight, {hidden_size});
  check_dense("add_rms_norm: y", p.y, {num_tokens, hidden_size});
  check_floating("add_rms_norm: x", p.x);
  check_dtype("add_rms_norm: residual", p.residual, p.x.dtype);
  check_dtype("add_rms_norm: weight", p.weight, p.x.dtype);
  check_dtype("add_rms_norm: y", p.y, p.x.dtype);
  if (p.sum) {
    check_dense("add_rms_norm: sum", p.sum, {num_tokens, hidden_size});
    check_dtype("add_rms_norm: sum", p.sum, p.x.dtype);
  }
  check(p.epsilon >= 0, "add_rms_norm: epsilon must not be negative, got ", p.epsilon);
}

RmsNormParams params_of(const OpArgs& args) {
  return {.x = args.tensor("x"),
          .weight = args.tensor("weight"),
          .y = args.tensor("y"),
          .epsilon = static_cast<float>(args.attribute<double>("epsilon"))};
}

AddRmsNormParams add_params_of(const OpArgs& args) {
  return {.x = args.tensor("x"),
          .residual = args.tensor("residual"),
          .weight = args.tensor("weight"),
          .y = args.tensor("y"),
          .sum = args.optional_tensor("sum"),
          .epsilon = static_cast<float>(args.attribute<double>("epsilon"))};
}

}  // namespace

void rms_norm(const RmsNormParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(rms_norm, params, context);
}

void add_rms_norm(const AddRmsNormParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(add_rms_norm, params, context);
}

OpDef rms_norm_op() {
  return {
      .name = "rms_norm",
      .signature = {.inputs = {{"x"}, {"weight"}},
                    .outputs = {{"y"}},
                    .attributes = {{"epsilon", "float"}}},
      .check = [](const OpArgs& args) { check_params(params_of(args)); },
      .workspace_bytes = no_workspace,
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { rms_norm(params, context); };
      },
  };
}

OpDef add_rms_norm_op() {
  return {
      .name = "add_rms_norm",
      .signature = {.inputs = {{"x"}, {"residual"}, {"weight"}},
                    .outputs = {{"y"}, {.name = "sum", .optional = true}},
                    .attributes = {{"epsilon", "float"}}},
      .check = [](const OpArgs& args) { check_params(add_params_of(args)); },
      .workspace_bytes = no_workspace,
      .bind = [](const OpArgs& args) -> BoundOp {
        return
            [params = add_params_of(args)](OpContext& context) { add_rms_norm(params, context); };
      },
  };
}

}  // namespace inflight
