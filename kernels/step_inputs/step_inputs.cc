#include "kernels/step_inputs/step_inputs.h"

#include <string_view>

#include "kernels/core/check.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

bool is_array(const TensorView& view, int64_t length) {
  return view.rank == 1 && view.shape[0] == length && view.dtype == DType::kInt32 &&
         view.is_dense();
}

bool is_table(const TensorView& view, int64_t num_sequences) {
  return view.rank == 2 && view.shape[0] == num_sequences && view.dtype == DType::kInt32 &&
         view.is_dense();
}

/// Cheap: a step pays for it.
void check_arrays(std::string_view where, const StepArrays& arrays) {
  const int64_t num_tokens = arrays.input_ids.shape[0];
  const int64_t num_sequences = arrays.kv_lengths.shape[0];
  bool are_groups_right = true;
  for (int g = 0; g < arrays.num_more_groups(); ++g) {
    const StepGroupArrays& group = arrays.more_groups[g];
    are_groups_right = are_groups_right && is_array(*group.slots, num_tokens) &&
                       is_table(*group.block_tables, num_sequences);
  }
  check(is_array(arrays.input_ids, num_tokens) && is_array(arrays.positions, num_tokens) &&
            is_array(arrays.rope_lengths, num_tokens) && is_array(arrays.slots, num_tokens) &&
            is_array(arrays.query_starts, num_sequences + 1) &&
            is_array(arrays.kv_lengths, num_sequences) &&
            is_array(arrays.last_rows, num_sequences) &&
            is_table(arrays.block_tables, num_sequences) && are_groups_right,
        "step_inputs: ", where, " must be dense int32 arrays of ", num_tokens, " rows in ",
        num_sequences, " sequences");
}

void check_opening(const StepOpening& opening, const StepArrays& to) {
  const int64_t num_tokens = to.input_ids.shape[0];
  const TensorView& rows = opening.embedding.y;
  check(num_tokens <= kMaxOpeningTokens && rows.shape[0] == num_tokens &&
            rows.shape[1] == opening.embedding.table.shape[1] &&
            (!opening.rope_table || opening.rope_table->cos_sin.shape[0] == num_tokens),
        "step_inputs: an opening of ", rows.shape[0], " rows for a step of ", num_tokens,
        ", the most are ", kMaxOpeningTokens);
}

}  // namespace

void step_inputs(const StepInputsParams& params, OpContext& context) {
  const StepArrays& from = params.from;
  const StepArrays& to = params.to;
  check_arrays("the staged inputs", from);
  check_arrays("their places", to);
  const int64_t more_sequences = to.kv_lengths.shape[0] - from.kv_lengths.shape[0];
  const int64_t more_rows = to.input_ids.shape[0] - from.input_ids.shape[0];
  check(
      more_sequences >= 0 && more_rows >= 0 && (more_sequences == 0 || more_rows == more_sequences),
      "step_inputs: the padding must be one row a sequence, or rows alone");
  const auto check_columns = [](const TensorView& needed, const TensorView& there) {
    check(there.shape[1] >= needed.shape[1], "step_inputs: the block tables need ", needed.shape[1],
          " columns, there are ", there.shape[1]);
  };
  check_columns(from.block_tables, to.block_tables);
  const int more_groups = from.num_more_groups();
  check(more_groups == to.num_more_groups(), "step_inputs: ", more_groups + 1,
        " groups of slots, there are places for ", to.num_more_groups() + 1);
  for (int g = 0; g < more_groups; ++g)
    check_columns(*from.more_groups[g].block_tables, *to.more_groups[g].block_tables);
  if (params.opening != nullptr) check_opening(*params.opening, to);
  INFLIGHT_DISPATCH(step_inputs, params, context);
}

}  // namespace inflight
