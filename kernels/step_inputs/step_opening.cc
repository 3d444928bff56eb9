#include "kernels/step_inputs/step_opening.h"

#include <cstdint>

namespace inflight {
namespace {

/// It is copied by as many bytes.
constexpr size_t kUnitBytes = 16;

bool is_in_units(const TensorView& rows) {
  return reinterpret_cast<uintptr_t>(rows.data) % kUnitBytes == 0 &&
         rows.shape[1] * size_of(rows.dtype) % kUnitBytes == 0;
}

}  // namespace

std::optional<StepOpening> find_step_opening(std::span<const OpCall> rows,
                                             const TensorView& input_ids,
                                             const TensorView& positions,
                                             const TensorView& rope_lengths) {
  if (rows.empty() || rows[0].op->name != "embedding") return std::nullopt;
  StepOpening opening = {.embedding = embedding_params(rows[0].args), .rope_table = std::nullopt};
  if (&opening.embedding.ids != &input_ids || !is_in_units(opening.embedding.table) ||
      !is_in_units(opening.embedding.y))
    return std::nullopt;
  if (rows.size() == 1 || rows[1].op->name != "rope_table") return opening;
  const RopeTableParams rope_table = rope_table_params(rows[1].args);
  if (&rope_table.positions == &positions && &rope_table.rope_lengths == &rope_lengths &&
      rope_table.inv_freq.size() <= kMaxOpeningFrequencies)
    opening.rope_table.emplace(rope_table);
  return opening;
}

}  // namespace inflight
