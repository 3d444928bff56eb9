// What an engine would take of this machine, before anything of it is loaded.
#pragma once

#include <cstdint>

#include "backend/executor/engine.h"

namespace inflight::executor {

struct Forecast {
  EngineInfo info;              // limits and num_blocks; no memory sizes
  int64_t bytes_per_block = 0;  // of all layers
  int64_t cache_bytes = 0;      // of all pools on the device
  int64_t free_bytes = 0;       // beside weights and arena, without the reserve of a GPU
};

/// `taken_bytes`: weights and arena; on the CPU `mapped_bytes` of them are read in place and cost
/// nothing. Raises what loading would raise for limits and caps; opens engine.json alone.
Forecast forecast(const EngineConfig& config, int64_t taken_bytes, int64_t mapped_bytes);

}  // namespace inflight::executor
