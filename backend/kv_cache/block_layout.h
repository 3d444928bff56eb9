// What lies where in a block of the KV pool: [layer][2 (k, v)][num_kv_heads][tokens_per_block]
// [head_size], each layer followed by its scales where the format has them in the block. Contiguous
// across layers, so that moving a block is one copy. Pure numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/kv_cache/geometry.h"
#include "kernels/core/dtype.h"

namespace inflight::kv_cache {

struct LayerSpec {
  int32_t num_kv_heads = 0;
  int32_t head_size = 0;
};

/// Where the factors are that turn stored values back: value = stored * scale.
enum class ScalePlace : uint8_t {
  kNone,   // floating formats store values as they are
  kPlan,   // float8: one factor a layer for keys, one for values, calibrated; weights of the plan
  kBlock,  // int8: float32 [2][num_kv_heads][tokens_per_block] behind the layer's values, the
           // largest magnitude of a token's head over 127: appending a token changes no other's
};
ScalePlace scale_place(DType dtype);

class BlockLayout {
 public:
  /// Raises invalid_argument for sizes that are not positive and blocks too large for 63 bits.
  BlockLayout(std::span<const LayerSpec> layers, const Geometry& geometry, DType dtype);

  int64_t block_bytes() const { return block_bytes_; }
  int num_layers() const { return static_cast<int>(values_offsets_.size()); }
  /// Bytes from the start of a block.
  int64_t values_offset(int layer) const { return values_offsets_.at(layer); }
  int64_t scales_offset(int layer) const { return scales_offsets_.at(layer); }  // kBlock only

  /// A stretch of a block that is rows of tokens_per_block tokens of `token_bytes` bytes each: what
  /// copying the first tokens of a block must know.
  struct Rows {
    int64_t offset = 0;
    int64_t num_rows = 0;
    int64_t token_bytes = 0;
  };
  /// In order; all of the block but for padding. One stretch where all layers are alike.
  std::span<const Rows> rows() const { return rows_; }

 private:
  void append_rows(int64_t num_rows, int64_t token_bytes, int64_t tokens_per_block);
  void align();

  std::vector<int64_t> values_offsets_;
  std::vector<int64_t> scales_offsets_;
  std::vector<Rows> rows_;
  int64_t block_bytes_ = 0;
};

/// Bytes of one block over all layers, to size a pool from a budget.
int64_t bytes_per_block(std::span<const LayerSpec> layers, const Geometry& geometry, DType dtype);

}  // namespace inflight::kv_cache
