// What must be moved before a step runs. Asked for by the manager while the step is planned, made
// by the rank that runs it.
#pragma once

#include <cstdint>

namespace inflight::kv_cache {

/// Where a block lies: in the pool on the device, or in host memory. Each has ids of its own.
enum class Tier : uint8_t { kDevice, kHost };

/// Keys and values of the first `num_tokens` tokens of a block, in all layers, into another block.
/// Copies take effect one after another, in the order in which they were asked for, before the step
/// that they are handed over with and after those launched before it.
struct BlockCopy {
  Tier from_tier = Tier::kDevice;
  int32_t from_block = -1;
  Tier to_tier = Tier::kDevice;
  int32_t to_block = -1;
  int32_t num_tokens = 0;

  bool operator==(const BlockCopy&) const = default;
};

}  // namespace inflight::kv_cache
