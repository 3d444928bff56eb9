// The memory of the KV pool on one device: [num_blocks][layer][2 (k, v)][num_kv_heads]
// [tokens_per_block][head_size]. A block is contiguous across layers, so that moving one is one
// copy. Owned by the rank that runs the plan; which blocks mean what is the manager's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/kv_cache/geometry.h"
#include "kernels/core/buffer.h"
#include "kernels/core/tensor_view.h"

namespace inflight::kv_cache {

struct LayerSpec {
  int32_t num_kv_heads = 0;
  int32_t head_size = 0;
};

/// Bytes of one block over all layers, to size a pool from a budget.
int64_t bytes_per_block(std::span<const LayerSpec> layers, const Geometry& geometry, DType dtype);

class KvStorage {
 public:
  /// On the CPU a large pool takes physical memory when it is first written to; on a CUDA device it
  /// is filled with zeros: what was there may read as NaN, and NaN times a weight of 0 is NaN.
  /// Raises invalid_argument for impossible sizes, and what Buffer raises.
  KvStorage(std::vector<LayerSpec> layers, Geometry geometry, DType dtype, int32_t num_blocks,
            Device device);

  /// [num_blocks, 2, num_kv_heads, tokens_per_block, head_size], strided by block.
  TensorView layer_view(int layer) const;

  int num_layers() const { return static_cast<int>(layers_.size()); }
  int32_t num_blocks() const { return num_blocks_; }
  const Geometry& geometry() const { return geometry_; }
  DType dtype() const { return dtype_; }
  int64_t bytes() const { return static_cast<int64_t>(memory_.bytes()); }

 private:
  std::vector<LayerSpec> layers_;
  std::vector<int64_t> layer_offsets_;  // elements from the start of a block
  Geometry geometry_;
  DType dtype_;
  int32_t num_blocks_;
  int64_t block_bytes_;
  Buffer memory_;
};

}  // namespace inflight::kv_cache
