// The weights of one rank: recipes executed over the memory-mapped checkpoint, views by name. On
// the CPU a weight stays in its file where it lies there as wanted; a CUDA device gets all of them,
// in one allocation. Owns the mappings and that memory; read-only after construction, any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "backend/plan/engine_file.h"
#include "backend/plan/plan.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

enum class LoadFormat : uint8_t {
  kAuto,   // the checkpoint's files
  kDummy,  // random numbers, no file is opened (dummy_weights.h)
};

class Weights {
 public:
  /// Maps the checkpoint files, checks them against the engine file and executes the recipes of
  /// `rank`, on the CPU with `pool`. Raises Error naming file and tensor, resource_exhausted with
  /// both sizes if the device has not enough memory.
  Weights(const EngineFile& engine, int rank, Device device, cpu::ThreadPool& pool,
          LoadFormat format = LoadFormat::kAuto);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  /// Raises not_found for a name that is not in the plan.
  const TensorView& view(std::string_view name) const;

  int64_t bytes_mapped() const;     // read in place from the files
  int64_t bytes_allocated() const;  // assembled or copied into memory of our own

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace inflight::plan
