#include <algorithm>

#include "kernels/step_inputs/step_inputs.h"

namespace inflight::cpu {
namespace {

/// Copies `from` and fills the rest of `to`: with `pad`, or counting on from `pad` by `stride`.
void copy_and_pad(const TensorView& from, const TensorView& to, int32_t pad, int32_t stride = 0) {
  const auto* source = from.as<int32_t>();
  auto* target = to.as<int32_t>();
  std::copy_n(source, from.shape[0], target);
  for (int64_t i = from.shape[0]; i < to.shape[0]; ++i, pad += stride) target[i] = pad;
}

void copy_table(const TensorView& from, const TensorView& to) {
  for (int64_t b = 0; b < from.shape[0]; ++b) {
    std::copy_n(from.as<int32_t>() + b * from.shape[1], from.shape[1],
                to.as<int32_t>() + b * to.shape[1]);
  }
}

}  // namespace

void step_inputs(const StepInputsParams& params, OpContext& context) {
  const StepArrays& from = params.from;
  const StepArrays& to = params.to;
  const auto num_tokens = static_cast<int32_t>(from.input_ids.shape[0]);
  copy_and_pad(from.input_ids, to.input_ids, 0);
  for (int32_t t = 0; t < num_tokens; ++t) {
    int32_t& id = to.input_ids.as<int32_t>()[t];
    if (id < 0) id = params.previous_tokens.as<int32_t>()[~id];
  }
  copy_and_pad(from.positions, to.positions, 0);
  copy_and_pad(from.rope_lengths, to.rope_lengths, 1);
  copy_and_pad(from.slots, to.slots, -1);
  copy_and_pad(from.query_starts, to.query_starts, num_tokens + 1, 1);
  copy_and_pad(from.kv_lengths, to.kv_lengths, 0);
  copy_and_pad(from.last_rows, to.last_rows, num_tokens, 1);
  copy_table(from.block_tables, to.block_tables);
  for (int g = 0; g < from.num_more_groups(); ++g) {
    copy_and_pad(*from.more_groups[g].slots, *to.more_groups[g].slots, -1);
    copy_table(*from.more_groups[g].block_tables, *to.more_groups[g].block_tables);
  }
  if (params.opening == nullptr) return;
  cpu::embedding(params.opening->embedding, context);
  if (params.opening->rope_table) cpu::rope_table(*params.opening->rope_table, context);
}

}  // namespace inflight::cpu
