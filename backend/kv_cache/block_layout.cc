#include "backend/kv_cache/block_layout.h"

#include <limits>

#include "kernels/core/check.h"

namespace inflight::kv_cache {
namespace {

// Of what lies behind something of another element size: enough for any vector load.
constexpr int64_t kAlignment = 16;

int64_t multiply(int64_t a, int64_t b) {
  int64_t product = 0;
  check(!__builtin_mul_overflow(a, b, &product), "KV block too large: ", a, " * ", b, " > ",
        std::numeric_limits<int64_t>::max(), " bytes");
  return product;
}

int64_t add(int64_t a, int64_t b) {
  int64_t sum = 0;
  check(!__builtin_add_overflow(a, b, &sum), "KV block too large: ", a, " + ", b, " > ",
        std::numeric_limits<int64_t>::max(), " bytes");
  return sum;
}

}  // namespace

ScalePlace scale_place(DType dtype) {
  if (dtype == DType::kInt8) return ScalePlace::kBlock;
  return dtype == DType::kFloat8E4M3 ? ScalePlace::kPlan : ScalePlace::kNone;
}

BlockLayout::BlockLayout(std::span<const LayerSpec> layers, const Geometry& geometry, DType dtype) {
  const bool has_scales = scale_place(dtype) == ScalePlace::kBlock;
  const int64_t tokens = geometry.tokens_per_block();
  for (const LayerSpec& layer : layers) {
    check(layer.num_kv_heads >= 1, "num_kv_heads ", layer.num_kv_heads, " < 1");
    check(layer.head_size >= 1, "head_size ", layer.head_size, " < 1");
    const int64_t rows = 2 * int64_t{layer.num_kv_heads};
    values_offsets_.push_back(block_bytes_);
    append_rows(rows, multiply(layer.head_size, size_of(dtype)), tokens);
    scales_offsets_.push_back(block_bytes_);
    if (!has_scales) continue;
    align();
    scales_offsets_.back() = block_bytes_;
    append_rows(rows, sizeof(float), tokens);
    align();
  }
}

void BlockLayout::append_rows(int64_t num_rows, int64_t token_bytes, int64_t tokens_per_block) {
  const int64_t row_bytes = multiply(tokens_per_block, token_bytes);
  const bool goes_on = !rows_.empty() && rows_.back().token_bytes == token_bytes &&
                       rows_.back().offset + rows_.back().num_rows * row_bytes == block_bytes_;
  if (goes_on) {
    rows_.back().num_rows += num_rows;
  } else {
    rows_.push_back({block_bytes_, num_rows, token_bytes});
  }
  block_bytes_ = add(block_bytes_, multiply(num_rows, row_bytes));
}

void BlockLayout::align() {
  block_bytes_ = add(block_bytes_, kAlignment - 1) / kAlignment * kAlignment;
}

int64_t bytes_per_block(std::span<const LayerSpec> layers, const Geometry& geometry, DType dtype) {
  return BlockLayout(layers, geometry, dtype).block_bytes();
}

}  // namespace inflight::kv_cache
