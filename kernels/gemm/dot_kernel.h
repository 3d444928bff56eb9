// The body of dot.h, compiled once per instruction set (see lanes.h): a tile of rows x columns of
// sums stays in registers while the depth goes by.
#pragma once

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu/lanes.h"
#include "kernels/gemm/dot.h"

namespace inflight::cpu::INFLIGHT_ISA {

/// Products of floats with weights that are widened as they are read.
template <typename Weight>
struct FloatProduct {
  using X = float;
  using W = Weight;
  using XOperand = Lanes;
  using WOperand = Lanes;
  static constexpr int64_t kDepth = kLanes;  // elements in an operand
  static INFLIGHT_INLINE XOperand load_x(const X* x) { return load(x); }
  static INFLIGHT_INLINE WOperand load_w(const W* w) { return load(w); }
  static INFLIGHT_INLINE XOperand load_x(const X* x, int64_t n) { return load_first(x, n); }
  static INFLIGHT_INLINE WOperand load_w(const W* w, int64_t n) { return load_first(w, n); }
  static INFLIGHT_INLINE Lanes add(Lanes sums, XOperand x, WOperand w) {
    return multiply_add(x, w, sums);
  }
};

#if INFLIGHT_ISA_LEVEL == 3
/// Products of bfloat16 with bfloat16: exact in float32, two to a lane.
struct BFloat16Product {
  using X = BFloat16;
  using W = BFloat16;
  using XOperand = __m512bh;
  using WOperand = __m512bh;
  static constexpr int64_t kDepth = 32;
  static INFLIGHT_INLINE __m512bh load_x(const BFloat16* x) {
    return (__m512bh)_mm512_loadu_si512(x);
  }
  static INFLIGHT_INLINE __m512bh load_w(const BFloat16* w) { return load_x(w); }
  static INFLIGHT_INLINE __m512bh load_x(const BFloat16* x, int64_t n) {
    return (__m512bh)_mm512_maskz_loadu_epi16((1u << n) - 1, x);
  }
  static INFLIGHT_INLINE __m512bh load_w(const BFloat16* w, int64_t n) { return load_x(w, n); }
  static INFLIGHT_INLINE Lanes add(Lanes sums, __m512bh x, __m512bh w) {
    return _mm512_dpbf16_ps(sums, x, w);
  }
};
#endif

// A tile has at most kMaxRows rows; its sums and operands fit the registers.
#if INFLIGHT_ISA_LEVEL >= 2
inline constexpr int kMaxRows = 6;
inline constexpr int kColumns = 4;
inline constexpr int kFewRows = 2;         // up to so many rows,
inline constexpr int kFewRowsColumns = 8;  // tiles are wider, to read more weights at once
#else
inline constexpr int kMaxRows = 3;
inline constexpr int kColumns = 4;
inline constexpr int kFewRows = 1;
inline constexpr int kFewRowsColumns = 8;
#endif

// Operands along the depth that are summed in registers before the lanes are added up: part of what
// fixes the order of additions, so it never depends on rows.
inline constexpr int64_t kDepthBlockSteps = 64;
// Bytes of x that may be expected to stay in the second-level cache beside the weights.
inline constexpr int64_t kCachedBytes = 384 << 10;
// A tile of weights is asked for while the one before is worked on, up to such a size; beyond, each
// row is, so many bytes ahead.
inline constexpr int64_t kPrefetchTileBytes = 144 << 10;
inline constexpr int64_t kPrefetchRowBytes = 1024;

template <typename Product, int kRows, int kTileColumns>
void dot_tile(const typename Product::X* x, const typename Product::W* weight, int64_t stride,
              int64_t depth, float* out, int64_t out_stride, bool is_first, int64_t ahead) {
  Lanes tile[kRows][kTileColumns];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kTileColumns; ++c) tile[r][c] = broadcast(0.0f);
  }
  int64_t k = 0;
  for (; k + Product::kDepth <= depth; k += Product::kDepth) {
    typename Product::XOperand operands[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) operands[r] = Product::load_x(x + r * stride + k);
#pragma GCC unroll 8
    for (int c = 0; c < kTileColumns; ++c) {
      const auto* from = weight + c * stride + k;
      __builtin_prefetch(reinterpret_cast<const char*>(from) + ahead, 0, 2);  // to the second level
      const typename Product::WOperand operand = Product::load_w(from);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) tile[r][c] = Product::add(tile[r][c], operands[r], operand);
    }
  }
  if (k < depth) {
#pragma GCC unroll 8
    for (int c = 0; c < kTileColumns; ++c) {
      const auto operand = Product::load_w(weight + c * stride + k, depth - k);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        tile[r][c] =
            Product::add(tile[r][c], Product::load_x(x + r * stride + k, depth - k), operand);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    float* to = out + r * out_stride;
    if constexpr (kTileColumns % 4 == 0) {
#pragma GCC unroll 2
      for (int c = 0; c < kTileColumns; c += 4) {
        Four results = sums(tile[r][c], tile[r][c + 1], tile[r][c + 2], tile[r][c + 3]);
        Four before{};
        if (!is_first) std::memcpy(&before, to + c, sizeof(before));
        results = is_first ? results : before + results;
        std::memcpy(to + c, &results, sizeof(results));
      }
    } else {
      static_assert(kTileColumns == 1);
      *to = is_first ? sum(tile[r][0]) : *to + sum(tile[r][0]);
    }
  }
}

/// One block of the depth for `rows` rows and all tiles of `columns` columns.
template <typename Product, int kRows>
void dot_columns(const DotArgs& args, int64_t row, int64_t column, int64_t columns, int64_t k) {
  constexpr int64_t kDepthBlock = kDepthBlockSteps * Product::kDepth;
  constexpr int kTileColumns = kRows <= kFewRows ? kFewRowsColumns : kColumns;
  const int64_t depth = std::min(kDepthBlock, args.depth - k);
  const auto* x = static_cast<const typename Product::X*>(args.x) + row * args.depth + k;
  const auto* weight = static_cast<const typename Product::W*>(args.weight) + k;
  float* out = args.out + row * args.out_stride;
  const int64_t end = column + columns;
  const auto tile_bytes =
      kTileColumns * args.depth * static_cast<int64_t>(sizeof(typename Product::W));
  const int64_t far = tile_bytes <= kPrefetchTileBytes ? tile_bytes : kPrefetchRowBytes;
  const int64_t ahead = row == 0 ? far : 0;  // later rows find the weights near
  for (; column + kTileColumns <= end; column += kTileColumns) {
    dot_tile<Product, kRows, kTileColumns>(x, weight + column * args.depth, args.depth, depth,
                                           out + column, args.out_stride, k == 0, ahead);
  }
  for (; column < end; ++column) {
    dot_tile<Product, kRows, 1>(x, weight + column * args.depth, args.depth, depth, out + column,
                                args.out_stride, k == 0, ahead);
  }
}

template <typename Product>
void dot_rows(const DotArgs& args, int64_t row, int64_t rows, int64_t column, int64_t columns,
              int64_t k) {
  switch (rows) {
    case 1:
      return dot_columns<Product, 1>(args, row, column, columns, k);
    case 2:
      return dot_columns<Product, 2>(args, row, column, columns, k);
    case 3:
      return dot_columns<Product, 3>(args, row, column, columns, k);
#if INFLIGHT_ISA_LEVEL >= 2
    case 4:
      return dot_columns<Product, 4>(args, row, column, columns, k);
    case 5:
      return dot_columns<Product, 5>(args, row, column, columns, k);
    case 6:
      return dot_columns<Product, 6>(args, row, column, columns, k);
#endif
  }
}

template <typename Product>
void dot(const DotArgs& args) {
  constexpr int64_t kDepthBlock = kDepthBlockSteps * Product::kDepth;
  // Row tiles of nearly equal height.
  const int64_t tiles = (args.rows + kMaxRows - 1) / kMaxRows;
  const auto for_row_tiles = [&](const auto& function) {
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t begin = args.rows * tile / tiles, end = args.rows * (tile + 1) / tiles;
      function(begin, end - begin);
    }
  };
  const auto for_column_tiles = [&](const auto& function) {
    for (int64_t column = 0; column < args.columns; column += kFewRowsColumns)
      function(column, std::min<int64_t>(kFewRowsColumns, args.columns - column));
  };
  const auto for_depth_blocks = [&](const auto& function) {
    for (int64_t k = 0; k < args.depth; k += kDepthBlock) function(k);
  };
  const int64_t row_bytes = sizeof(typename Product::X);
  if (args.rows * args.depth * row_bytes <= kCachedBytes) {
    // All of x stays near: each weight row is read from end to end, once.
    for_column_tiles([&](int64_t column, int64_t columns) {
      for_depth_blocks([&](int64_t k) {
        for_row_tiles([&](int64_t row, int64_t rows) {
          dot_rows<Product>(args, row, rows, column, columns, k);
        });
      });
    });
  } else if (args.rows * kDepthBlock * row_bytes <= kCachedBytes) {
    for_depth_blocks([&](int64_t k) {
      for_column_tiles([&](int64_t column, int64_t columns) {
        for_row_tiles([&](int64_t row, int64_t rows) {
          dot_rows<Product>(args, row, rows, column, columns, k);
        });
      });
    });
  } else {
    // The weights' block stays near instead.
    for_depth_blocks([&](int64_t k) {
      for_row_tiles([&](int64_t row, int64_t rows) {
        dot_rows<Product>(args, row, rows, 0, args.columns, k);
      });
    });
  }
}

DotKernel dot_kernel(DType x, DType weight) {
#if INFLIGHT_ISA_LEVEL == 3
  if (x == DType::kBFloat16 && weight == DType::kBFloat16) return dot<BFloat16Product>;
#endif
  if (x != DType::kFloat32) return nullptr;
  switch (weight) {
    case DType::kFloat16:
      return dot<FloatProduct<Float16>>;
    case DType::kBFloat16:
      return dot<FloatProduct<BFloat16>>;
    default:
      return dot<FloatProduct<float>>;
  }
}

}  // namespace inflight::cpu::INFLIGHT_ISA
