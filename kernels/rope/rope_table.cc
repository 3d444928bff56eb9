#include "kernels/rope/rope_table.h"

#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const RopeTableParams& p) {
  const auto half = static_cast<int64_t>(p.inv_freq.size());
  check(half > 0, "rope_table: inv_freq is empty");
  check_dense("rope_table: positions", p.positions, {-1});
  check_dense("rope_table: rope_lengths", p.rope_lengths, {p.positions.shape[0]});
  check_dense("rope_table: cos_sin", p.cos_sin, {p.positions.shape[0], 2 * half});
  check_dtype("rope_table: positions", p.positions, DType::kInt32);
  check_dtype("rope_table: rope_lengths", p.rope_lengths, DType::kInt32);
  check_dtype("rope_table: cos_sin", p.cos_sin, DType::kFloat32);
  if (p.dynamic) {
    check(half > 1, "rope_table: dynamic scaling needs more than 2 rotated dimensions, got ",
          2 * half);
    check(p.dynamic->base > 0, "rope_table: dynamic_base must be positive, got ", p.dynamic->base);
    check(p.dynamic->factor >= 1, "rope_table: dynamic_factor must be at least 1, got ",
          p.dynamic->factor);
    check(p.dynamic->original_max_position > 0,
          "rope_table: dynamic_original_max_position must be positive, got ",
          p.dynamic->original_max_position);
  }
}

}  // namespace

RopeTableParams rope_table_params(const OpArgs& args) {
  const auto inv_freq = args.attribute<std::vector<double>>("inv_freq");
  RopeTableParams params{
      .positions = args.tensor("positions"),
      .rope_lengths = args.tensor("rope_lengths"),
      .cos_sin = args.tensor("cos_sin"),
      .inv_freq = {inv_freq.begin(), inv_freq.end()},
      .attention_scaling = static_cast<float>(args.attribute<double>("attention_scaling")),
      .dynamic = std::nullopt};
  if (args.has_attribute("dynamic_factor")) {
    params.dynamic = {
        .base = args.attribute<double>("dynamic_base"),
        .factor = args.attribute<double>("dynamic_factor"),
        .original_max_position = args.attribute<int64_t>("dynamic_original_max_position")};
  }
  return params;
}

void rope_table(const RopeTableParams& params, OpContext& context) {
  check_params(params);
  if (params.cos_sin.num_elements() == 0) return;
  INFLIGHT_DISPATCH(rope_table, params, context);
}

OpDef rope_table_op() {
  return {
      .name = "rope_table",
      .signature = {.inputs = {{"positions"}, {"rope_lengths"}},
                    .outputs = {{"cos_sin"}},
                    .attributes = {{"inv_freq", "floats"},
                                   {"attention_scaling", "float"},
                                   {"dynamic_base", "float", true},
                                   {"dynamic_factor", "float", true},
                                   {"dynamic_original_max_position", "int", true}}},
      .check = [](const OpArgs& args) { check_params(rope_table_params(args)); },
      .workspace_bytes = no_workspace,
      .bind = [](const OpArgs& args) -> BoundOp {
        return
            [params = rope_table_params(args)](OpContext& context) { rope_table(params, context); };
      },
  };
}

}  // namespace inflight
