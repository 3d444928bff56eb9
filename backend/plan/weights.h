// The weights of one rank: recipes executed over the memory-mapped checkpoint, views by name. Owns
// the mappings and what had to be assembled; read-only after construction, any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "backend/plan/engine_file.h"
#include "backend/plan/plan.h"
#include "kernels/core/tensor_view.h"

namespace inflight::plan {

class Weights {
 public:
  /// Maps the checkpoint files, checks them against the engine file and executes the recipes of
  /// `rank` on `pool`. Raises Error naming file and tensor.
  Weights(const EngineFile& engine, int rank, Device device, cpu::ThreadPool& pool);
  ~Weights();
  Weights(const Weights&) = delete;
  Weights& operator=(const Weights&) = delete;

  /// Raises not_found for a name that is not in the plan.
  const TensorView& view(std::string_view name) const;

  int64_t bytes_mapped() const;     // read in place from the files
  int64_t bytes_allocated() const;  // assembled into memory of our own

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace inflight::plan
