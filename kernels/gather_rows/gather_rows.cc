#include "kernels/gather_rows/gather_rows.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const GatherRowsParams& p) {
  check_dense("gather_rows: x", p.x, {-1, -1});
  check_dense("gather_rows: rows", p.rows, {-1});
  check_dense("gather_rows: y", p.y, {p.rows.shape[0], p.x.shape[1]});
  check_floating("gather_rows: x", p.x);
  check_dtype("gather_rows: rows", p.rows, DType::kInt32);
  check_dtype("gather_rows: y", p.y, p.x.dtype);
}

GatherRowsParams params_of(const OpArgs& args) {
  return {.x = args.tensor("x"), .rows = args.tensor("rows"), .y = args.tensor("y")};
}

}  // namespace

void gather_rows(const GatherRowsParams& params, OpContext& context) {
  check_params(params);
  if (params.y.num_elements() == 0) return;
  INFLIGHT_DISPATCH(gather_rows, params, context);
}

OpDef gather_rows_op() {
  return {
      .name = "gather_rows",
      .signature = {.inputs = {{"x"}, {"rows"}}, .outputs = {{"y"}}, .attributes = {}},
      .check = [](const OpArgs& args) { check_params(params_of(args)); },
      .workspace_bytes = no_workspace,
      .bind = [](const OpArgs& args) -> BoundOp {
        return [params = params_of(args)](OpContext& context) { gather_rows(params, context); };
      },
  };
}

}  // namespace inflight
