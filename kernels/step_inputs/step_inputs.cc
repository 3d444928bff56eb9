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

/// Cheap: a step pays for it.
void check_arrays(std::string_view where, const StepArrays& arrays) {
  const int64_t num_tokens = arrays.input_ids.shape[0];
  const int64_t num_sequences = arrays.kv_lengths.shape[0];
  const TensorView& tables = arrays.block_tables;
  check(is_array(arrays.input_ids, num_tokens) && is_array(arrays.positions, num_tokens) &&
            is_array(arrays.rope_lengths, num_tokens) && is_array(arrays.slots, num_tokens) &&
            is_array(arrays.query_starts, num_sequences + 1) &&
            is_array(arrays.kv_lengths, num_sequences) &&
            is_array(arrays.last_rows, num_sequences) && tables.rank == 2 &&
            tables.shape[0] == num_sequences && tables.dtype == DType::kInt32 && tables.is_dense(),
        "step_inputs: ", where, " must be dense int32 arrays of ", num_tokens, " rows in ",
        num_sequences, " sequences");
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
  check(to.block_tables.shape[1] >= from.block_tables.shape[1],
        "step_inputs: the block tables need ", from.block_tables.shape[1], " columns, there are ",
        to.block_tables.shape[1]);
  INFLIGHT_DISPATCH(step_inputs, params, context);
}

}  // namespace inflight
