// Recipes executed into the memory of a CUDA device, at the speed of its bus: threads pack pieces
// of the mapped files into pinned memory, from where they are copied while the next are packed.
// What is cast or interleaved is so on the device. Owns what it needs only while it runs.
#pragma once

#include <vector>

#include "backend/plan/plan.h"
#include "backend/plan/recipe.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

/// A weight and where on the device it goes.
struct UploadJob {
  const WeightSpec* weight = nullptr;
  std::vector<SourceSlice> slices;  // all of the weight's
  void* out = nullptr;
};

/// Returns when all weights are in place.
void upload(const std::vector<UploadJob>& jobs, Device device);

}  // namespace inflight::plan
