#include "kernels/fused_linear/compose.h"

#include <algorithm>

#include "kernels/activation/silu_mul.h"
#include "kernels/core/check.h"
#include "kernels/rms_norm/rms_norm.h"

namespace inflight {
namespace {

constexpr size_t kAlignment = 256;
constexpr int64_t kRowAlignment = 128;  // a tile's rows

/// Rows [row, row + rows) of a matrix, or nothing of nothing.
TensorView rows_of(const TensorView& matrix, int64_t row, int64_t rows) {
  if (!matrix) return {};
  uint8_t* data = matrix.as<uint8_t>() + row * matrix.shape[1] * size_of(matrix.dtype);
  return TensorView::dense(data, matrix.dtype, {rows, matrix.shape[1]}, matrix.device);
}

int64_t panel_height(int64_t num_rows, int64_t max_rows) {
  const int64_t num_panels = (num_rows + max_rows - 1) / max_rows;
  const int64_t height = (num_rows + num_panels - 1) / num_panels;
  return std::min(max_rows, (height + kRowAlignment - 1) / kRowAlignment * kRowAlignment);
}

OpContext with_rest_of_workspace(const OpContext& context, size_t used) {
  check_internal(context.workspace.bytes >= used, "fused_linear: workspace of ",
                 context.workspace.bytes, " bytes is too small");
  OpContext rest = context;
  rest.workspace.data = static_cast<uint8_t*>(context.workspace.data) + used;
  rest.workspace.bytes -= used;
  return rest;
}

}  // namespace

PanelScratch panel_scratch(const FusedLinearParams& p, int64_t rows, void* workspace) {
  PanelScratch scratch{};
  const auto place = [&](TensorView& view, DType dtype, int64_t columns) {
    void* data = workspace ? static_cast<uint8_t*>(workspace) + scratch.bytes : nullptr;
    view = TensorView::dense(data, dtype, {rows, columns}, p.x.device);
    scratch.bytes += (view.bytes() + kAlignment - 1) / kAlignment * kAlignment;
  };
  if (p.norm_weight) place(scratch.normed, p.x.dtype, p.x.shape[1]);
  if (p.is_gated) place(scratch.gate_up, p.y.dtype, p.weight.shape[0]);
  return scratch;
}

LinearParams panel_linear(const FusedLinearParams& p, const PanelScratch& scratch,
                          const TensorView& x, const TensorView& y) {
  return {.x = p.norm_weight ? scratch.normed : x,
          .weight = p.weight,
          .bias = p.bias,
          .y = p.is_gated ? scratch.gate_up : y};
}

void compose(const FusedLinearParams& p, int64_t max_rows, const ComposeSteps& steps,
             const OpContext& context) {
  const int64_t num_rows = p.x.shape[0], height = panel_height(num_rows, max_rows);
  for (int64_t row = 0; row < num_rows; row += height) {
    const int64_t rows = std::min(height, num_rows - row);
    const TensorView x = rows_of(p.x, row, rows), y = rows_of(p.y, row, rows);
    const TensorView residual = rows_of(p.residual, row, rows);
    const PanelScratch scratch = panel_scratch(p, rows, context.workspace.data);
    const LinearParams product = panel_linear(p, scratch, x, y);
    OpContext rest = with_rest_of_workspace(context, scratch.bytes);
    if (p.norm_weight)
      rms_norm({.x = x, .weight = p.norm_weight, .y = scratch.normed, .epsilon = p.epsilon}, rest);
    if (residual && !p.is_gated && steps.linear_add && steps.linear_add(product, residual, rest))
      continue;
    linear(product, rest);
    if (p.is_gated) silu_mul({.gate_up = scratch.gate_up, .y = y}, rest);
    if (residual) steps.add(residual, y, rest);
  }
}

}  // namespace inflight
