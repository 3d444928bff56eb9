#include "kernels/fused_linear/compose.h"

#include <algorithm>

#include "kernels/activation/silu_mul.h"
#include "kernels/core/check.h"
#include "kernels/rms_norm/rms_norm.h"

namespace inflight {
namespace {

constexpr size_t kAlignment = 256;
constexpr int64_t kRowAlignment = 128;  // a tile's rows

/// Rows [row, row + rows) of a matrix.
TensorView rows_of(const TensorView& matrix, int64_t row, int64_t rows) {
  uint8_t* data = matrix.as<uint8_t>() + row * matrix.shape[1] * size_of(matrix.dtype);
  return TensorView::dense(data, matrix.dtype, {rows, matrix.shape[1]}, matrix.device);
}

int64_t panel_height(int64_t num_rows, int64_t max_rows) {
  const int64_t num_panels = (num_rows + max_rows - 1) / max_rows;
  const int64_t height = (num_rows + num_panels - 1) / num_panels;
  return std::min(
      {num_rows, max_rows, (height + kRowAlignment - 1) / kRowAlignment * kRowAlignment});
}

OpContext with_rest_of_workspace(const OpContext& context, size_t used) {
  check_internal(context.workspace.bytes >= used, "fused_linear: workspace of ",
                 context.workspace.bytes, " bytes is too small");
  OpContext rest = context;
  rest.workspace.data = static_cast<uint8_t*>(context.workspace.data) + used;
  rest.workspace.bytes -= used;
  return rest;
}

/// y = silu_mul(linear of x), the linear's columns in `gate_up`.
void gated_panels(const FusedLinearParams& p, const TensorView& x, const TensorView& gate_up,
                  OpContext& context) {
  const int64_t num_rows = x.shape[0], height = gate_up.shape[0];
  for (int64_t row = 0; row < num_rows; row += height) {
    const int64_t rows = std::min(height, num_rows - row);
    const TensorView from = rows_of(x, row, rows), columns = rows_of(gate_up, 0, rows);
    linear({.x = from, .weight = p.weight, .bias = p.bias, .y = columns}, context);
    silu_mul({.gate_up = columns, .y = rows_of(p.y, row, rows)}, context);
  }
}

}  // namespace

Scratch scratch_of(const FusedLinearParams& p, int64_t panel_rows, void* workspace) {
  Scratch scratch;
  const auto place = [&](TensorView& view, DType dtype, int64_t rows, int64_t columns) {
    void* data = workspace ? static_cast<uint8_t*>(workspace) + scratch.bytes : nullptr;
    view = TensorView::dense(data, dtype, {rows, columns}, p.x.device);
    scratch.bytes += (view.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  };
  if (p.norm_weight) place(scratch.normed, p.x.dtype, p.x.shape[0], p.x.shape[1]);
  if (p.is_gated) place(scratch.gate_up, p.y.dtype, panel_rows, p.weight.shape[0]);
  return scratch;
}

LinearParams inner_linear(const FusedLinearParams& p, const Scratch& scratch) {
  return {.x = p.norm_weight ? scratch.normed : p.x,
          .weight = p.weight,
          .bias = p.bias,
          .y = p.is_gated ? scratch.gate_up : p.y};
}

void compose(const FusedLinearParams& p, int64_t max_panel_rows, const ComposeSteps& steps,
             const OpContext& context) {
  const Scratch scratch =
      scratch_of(p, panel_height(p.x.shape[0], max_panel_rows), context.workspace.data);
  OpContext rest = with_rest_of_workspace(context, scratch.bytes);
  if (p.norm_weight)
    rms_norm({.x = p.x, .weight = p.norm_weight, .y = scratch.normed, .epsilon = p.epsilon}, rest);
  const TensorView& x = p.norm_weight ? scratch.normed : p.x;
  const LinearParams whole{.x = x, .weight = p.weight, .bias = p.bias, .y = p.y};
  if (p.is_gated) {
    if (!steps.linear_silu_mul || !steps.linear_silu_mul(whole, rest))
      gated_panels(p, x, scratch.gate_up, rest);
  } else {
    if (p.residual && steps.linear_add && steps.linear_add(whole, p.residual, rest)) return;
    linear(whole, rest);
  }
  if (p.residual) steps.add(p.residual, p.y, rest);
}

}  // namespace inflight
