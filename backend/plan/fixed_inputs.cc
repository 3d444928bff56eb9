#include "backend/plan/fixed_inputs.h"

#include "kernels/step_inputs/step_inputs.h"

namespace inflight::plan {
namespace {

StepArrays arrays_of(const StepInputs& inputs) {
  return {.input_ids = inputs.input_ids,
          .positions = inputs.positions,
          .rope_lengths = inputs.rope_lengths,
          .slots = inputs.slots,
          .query_starts = inputs.query_starts,
          .kv_lengths = inputs.kv_lengths,
          .block_tables = inputs.block_tables,
          .last_rows = inputs.last_rows};
}

}  // namespace

FixedInputs::FixedInputs(const StepLimits& limits, int max_blocks_per_sequence,
                         const Stream& stream) {
  constexpr int64_t kAlignment = 64;  // elements: 256 bytes
  int64_t used = 0;                   // elements
  std::array<int64_t, kStepInputs.size()> offsets;
  for (size_t i = 0; i < kStepInputs.size(); ++i) {
    TensorView& view = views_.*kStepInputs[i].view;
    view = TensorView::dense(nullptr, DType::kInt32,
                             {kStepInputs[i].length(limits.max_num_tokens, limits.max_batch_size)},
                             stream.device());
    if (kStepInputs[i].shape == StepInputShape::kBlockTables) {
      view.shape[view.rank++] = max_blocks_per_sequence;
      view.set_dense_strides();
    }
    offsets[i] = used;
    used += (view.num_elements() + kAlignment - 1) / kAlignment * kAlignment;
  }
  memory_ = Buffer(used * sizeof(int32_t), stream.device());
  fill_async(memory_.data(), 0, memory_.bytes(), stream);
  for (size_t i = 0; i < kStepInputs.size(); ++i) {
    (views_.*kStepInputs[i].view).data = static_cast<int32_t*>(memory_.data()) + offsets[i];
  }
}

const StepInputs& FixedInputs::move(const StepInputs& staged, int num_tokens, int num_sequences,
                                    OpContext& context) {
  shaped(num_tokens, num_sequences);
  step_inputs({.from = arrays_of(staged),
               .to = arrays_of(views_),
               .previous_tokens = staged.previous_tokens},
              context);
  return views_;
}

const StepInputs& FixedInputs::shaped(int num_tokens, int num_sequences) {
  views_.num_tokens = num_tokens;
  views_.num_sequences = num_sequences;
  for (const StepInputSpec& spec : kStepInputs) {
    (views_.*spec.view).shape[0] = spec.length(num_tokens, num_sequences);
  }
  return views_;
}

}  // namespace inflight::plan
