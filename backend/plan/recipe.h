// Recipes against a checkpoint: which bytes a weight is made of, whether they already lie as the
// weight wants them, and how to assemble them if not. Owns no memory.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "backend/plan/checkpoint.h"
#include "backend/plan/plan.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

/// A box of a checkpoint tensor.
struct SourceSlice {
  const MappedFile* file = nullptr;
  const uint8_t* data = nullptr;  // the whole tensor, aligned to nothing
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};   // of the whole tensor
  std::array<int64_t, kMaxRank> begin{};   // first index of the slice on each axis
  std::array<int64_t, kMaxRank> extent{};  // of the slice

  int64_t num_elements() const;
  int64_t stride(int axis) const;  // elements
  int64_t first() const;           // element at which the slice begins
  bool is_contiguous() const;
};

/// The slices of `weight`, checked against the checkpoint and the weight's shape. Raises Error
/// naming the weight and the source.
std::vector<SourceSlice> resolve_recipe(const WeightSpec& weight, std::string_view name,
                                        const Checkpoint& checkpoint);

/// Where the weight already lies as it is wanted: one run of bytes of its own dtype, aligned for
/// it. Null if it must be assembled.
const uint8_t* find_in_place(const WeightSpec& weight, const std::vector<SourceSlice>& slices);

/// Casts (rounding to nearest even) and concatenates the slices into `out`, dense.
void assemble(const WeightSpec& weight, const std::vector<SourceSlice>& slices, void* out,
              cpu::ThreadPool& pool);

/// Elements [first, first + count) of the slice in row-major order, side by side in `out`.
void pack(const SourceSlice& slice, int64_t first, int64_t count, uint8_t* out);

/// Lets the pages under the slices leave resident memory.
void release_pages(const std::vector<SourceSlice>& slices);

}  // namespace inflight::plan
