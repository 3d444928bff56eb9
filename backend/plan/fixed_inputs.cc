#include "backend/plan/fixed_inputs.h"

#include <utility>
#include <vector>

#include "kernels/step_inputs/step_inputs.h"

namespace inflight::plan {
namespace {

StepArrays arrays_of(const StepInputs& inputs) {
  static_assert(kMaxKvGroups == 1 + kMaxMoreStepGroups);
  StepArrays arrays = {.input_ids = inputs.input_ids,
                       .positions = inputs.positions,
                       .rope_lengths = inputs.rope_lengths,
                       .slots = inputs.slots,
                       .query_starts = inputs.query_starts,
                       .kv_lengths = inputs.kv_lengths,
                       .block_tables = inputs.block_tables,
                       .last_rows = inputs.last_rows};
  for (size_t g = 0; g < inputs.more_groups.size(); ++g) {
    const KvGroupInputs& group = inputs.more_groups[g];
    arrays.more_groups[g] = {.slots = &group.slots, .block_tables = &group.block_tables};
  }
  return arrays;
}

}  // namespace

FixedInputs::FixedInputs(const StepLimits& limits, int max_blocks_per_sequence, int num_groups,
                         const Stream& stream) {
  constexpr int64_t kAlignment = 64;  // elements: 256 bytes
  int64_t used = 0;                   // elements
  std::vector<std::pair<TensorView*, int64_t>> offsets;
  const auto add = [&](const StepInputSpec& spec, TensorView& view) {
    view = TensorView::dense(nullptr, DType::kInt32,
                             {spec.length(limits.max_num_tokens, limits.max_batch_size)},
                             stream.device());
    if (spec.shape == StepInputShape::kBlockTables) {
      view.shape[view.rank++] = max_blocks_per_sequence;
      view.set_dense_strides();
    }
    offsets.emplace_back(&view, used);
    used += (view.num_elements() + kAlignment - 1) / kAlignment * kAlignment;
  };
  for (const StepInputSpec& spec : kStepInputs) add(spec, views_.*spec.view);
  views_.more_groups.resize(num_groups - 1);
  for (KvGroupInputs& group : views_.more_groups) {
    add(spec_of(&StepInputs::slots), group.slots);
    add(spec_of(&StepInputs::block_tables), group.block_tables);
  }
  memory_ = Buffer(used * sizeof(int32_t), stream.device());
  fill_async(memory_.data(), 0, memory_.bytes(), stream);
  for (const auto& [view, offset] : offsets)
    view->data = static_cast<int32_t*>(memory_.data()) + offset;
}

void FixedInputs::move(const StepInputs& staged, const StepOpening* opening,
                       OpContext& context) const {
  step_inputs({.from = arrays_of(staged),
               .to = arrays_of(views_),
               .previous_tokens = staged.previous_tokens,
               .opening = opening},
              context);
}

const StepInputs& FixedInputs::shaped(int num_tokens, int num_sequences, int num_columns) {
  views_.num_tokens = num_tokens;
  views_.num_sequences = num_sequences;
  for (const StepInputSpec& spec : kStepInputs) {
    (views_.*spec.view).shape[0] = spec.length(num_tokens, num_sequences);
  }
  const auto shape_table = [&](TensorView& tables) {
    tables.shape[0] = num_sequences;
    tables.shape[1] = num_columns;
    tables.set_dense_strides();
  };
  shape_table(views_.block_tables);
  for (KvGroupInputs& group : views_.more_groups) {
    group.slots.shape[0] = num_tokens;
    shape_table(group.block_tables);
  }
  return views_;
}

}  // namespace inflight::plan
