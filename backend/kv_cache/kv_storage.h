// The memory of the KV cache on one device: the pool that the plan reads and writes, and beside it
// the host tier, whose blocks are alike (block_layout.h), so that moving a block is one copy. Owned
// by the rank that runs the plan; which blocks mean what is the manager's affair.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "backend/kv_cache/block_copy.h"
#include "backend/kv_cache/block_layout.h"
#include "backend/kv_cache/geometry.h"
#include "kernels/core/buffer.h"
#include "kernels/core/tensor_view.h"

namespace inflight::kv_cache {

class KvStorage {
 public:
  /// On the CPU a large pool takes physical memory when it is first written to; on a CUDA device it
  /// is filled with zeros: what was there may read as NaN, and NaN times a weight of 0 is NaN.
  /// The host tier is page-locked memory for a CUDA device, plain memory for the CPU.
  /// Raises invalid_argument for impossible sizes, and what Buffer raises.
  KvStorage(std::vector<LayerSpec> layers, Geometry geometry, DType dtype, int32_t num_blocks,
            Device device, int32_t num_host_blocks = 0);

  /// [num_blocks, 2, num_kv_heads, tokens_per_block, head_size], strided by block.
  TensorView layer_view(int layer) const;
  /// float32 [num_blocks, 2, num_kv_heads, tokens_per_block], strided by block; empty where the
  /// format has no scales in its blocks.
  TensorView layer_scales(int layer) const;
  /// The device's pool as copying sees it, a view for each of the layout's rows: uint8
  /// [num_blocks, rows, tokens_per_block, bytes], strided by block.
  std::vector<TensorView> row_views() const;
  /// block_bytes() bytes.
  void* block(Tier tier, int32_t block) const;

  int num_layers() const { return layout_.num_layers(); }
  int32_t num_blocks() const { return num_blocks_; }
  int32_t num_host_blocks() const { return num_host_blocks_; }
  const Geometry& geometry() const { return geometry_; }
  DType dtype() const { return dtype_; }
  Device device() const { return memory_.device(); }
  int64_t block_bytes() const { return layout_.block_bytes(); }
  int64_t bytes() const { return static_cast<int64_t>(memory_.bytes()); }
  int64_t host_bytes() const { return static_cast<int64_t>(host_memory_.bytes()); }

 private:
  const LayerSpec& spec_of(int layer) const;

  std::vector<LayerSpec> layers_;
  Geometry geometry_;
  DType dtype_;
  BlockLayout layout_;
  int32_t num_blocks_;
  int32_t num_host_blocks_;
  Buffer memory_;
  Buffer host_memory_;
};

}  // namespace inflight::kv_cache
