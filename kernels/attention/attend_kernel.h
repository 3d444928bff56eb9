// The body of attend.h, compiled once per instruction set (see lanes.h). Rows go in tiles whose
// sums stay in registers, for the scores and for the weighted values.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention/attend.h"
#include "kernels/core/cpu/lanes.h"
#include "kernels/core/cpu/math.h"

namespace inflight::cpu::INFLIGHT_ISA {

#if INFLIGHT_ISA_LEVEL >= 2
inline constexpr int kMaxRows = 6;
#else
inline constexpr int kMaxRows = 3;
#endif
inline constexpr int kTileKeys = 4;     // keys to a tile of scores
inline constexpr int kTileVectors = 4;  // registers along the head to a tile of outputs

struct LoadWhole {
  template <typename T>
  INFLIGHT_INLINE Lanes operator()(const T* from) const {
    return load(from);
  }
};
struct LoadFirst {
  int64_t count;
  template <typename T>
  INFLIGHT_INLINE Lanes operator()(const T* from) const {
    return load_first(from, count);
  }
};

template <int kRows, int kKeys, typename Cache, typename Load>
INFLIGHT_INLINE void add_scores(Lanes (&tile)[kRows][kKeys], const float* queries, int64_t stride,
                                const Cache* const* keys, int64_t d, const Load& load_key) {
  Lanes query[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) query[r] = load(queries + r * stride + d);
#pragma GCC unroll 4
  for (int c = 0; c < kKeys; ++c) {
    const Lanes key = load_key(keys[c] + d);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) tile[r][c] = multiply_add(query[r], key, tile[r][c]);
  }
}

/// scores[r][c] = query r . key c.
template <int kRows, int kKeys, typename Cache>
void score_tile(const AttendArgs& args, int64_t row, const Cache* const* keys, float* scores) {
  const float* queries = args.queries + row * args.stride;
  Lanes tile[kRows][kKeys];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int c = 0; c < kKeys; ++c) tile[r][c] = broadcast(0.0f);
  }
  int64_t d = 0;
  for (; d + kLanes <= args.head_size; d += kLanes)
    add_scores(tile, queries, args.stride, keys, d, LoadWhole{});
  if (d < args.head_size)
    add_scores(tile, queries, args.stride, keys, d, LoadFirst{args.head_size - d});
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    float* to = scores + (row + r) * kKeyTile;
    if constexpr (kKeys == 4) {
      const Four results =
          inflight::cpu::INFLIGHT_ISA::sums(tile[r][0], tile[r][1], tile[r][2], tile[r][3]);
      std::memcpy(to, &results, sizeof(results));
    } else {
      *to = sum(tile[r][0]);
    }
  }
}

/// Turns a row's scores into weights in place, zero for keys [hidden, first) and from `visible` on,
/// and moves the row's maximum and sum on. Returns the factor that the row's earlier outputs need.
inline float soften_row(float* scores, int64_t hidden, int64_t first, int64_t visible, float scale,
                        float& maximum, float& sum) {
  if (hidden < first) std::fill(scores + hidden, scores + first, -INFINITY);
  float largest = maximum;
#pragma omp simd reduction(max : largest)
  for (int64_t i = 0; i < visible; ++i) largest = std::max(largest, scores[i] * scale);
  const float factor = fast_exp(maximum - largest);
  std::fill(scores + visible, scores + kKeyTile, -INFINITY);
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < kKeyTile; ++i) {
    scores[i] = fast_exp(scores[i] * scale - largest);
    total += scores[i];
  }
  maximum = largest;
  sum = sum * factor + total;
  return factor;
}

/// Asks for what is read after these: the processor does not guess where the next block is.
template <typename Cache>
INFLIGHT_INLINE void prefetch(const Cache* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / static_cast<int64_t>(sizeof(Cache)))
    __builtin_prefetch(from + i);
}

/// Of a tile's keys, counted from its first, those that any row sees: [0, sinks) and [first, end).
struct Keys {
  int64_t sinks, first, end;

  int64_t begin_of(int part) const { return part == 0 ? 0 : first; }
  int64_t end_of(int part) const { return part == 0 ? sinks : end; }
};

/// outputs[r][d...] = outputs[r][d...] * factors[r] + sum over keys of weights[r][key] * value.
template <int kRows, int kVectors, typename Cache, typename Load>
INFLIGHT_INLINE void weigh_tile(const AttendArgs& args, int64_t row, int64_t d, const Keys& range,
                                const Cache* const* values, const Cache* const* ahead,
                                const float* factors, const Load& load_value) {
  float* outputs = args.outputs + row * args.stride + d;
  const float* weights = args.scores + row * kKeyTile;
  Lanes tile[kRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    const Lanes factor = broadcast(factors[row + r]);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      tile[r][v] = load(outputs + r * args.stride + v * kLanes) * factor;
  }
  for (int part = range.sinks == 0; part < 2; ++part) {
    const int64_t end = range.end_of(part);
    for (int64_t key = range.begin_of(part); key < end; ++key) {
      if (ahead != nullptr) prefetch(ahead[key] + d, kVectors * kLanes);
      Lanes value[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) value[v] = load_value(values[key] + d + v * kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Lanes weight = broadcast(weights[r * kKeyTile + key]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) tile[r][v] = multiply_add(weight, value[v], tile[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(outputs + r * args.stride + v * kLanes, tile[r][v]);
  }
}

template <int kRows, typename Cache>
void score_rows(const AttendArgs& args, int64_t row, const Keys& range, const Cache* const* keys,
                const Cache* const* ahead) {
  for (int part = range.sinks == 0; part < 2; ++part) {
    const int64_t end = range.end_of(part);
    int64_t key = range.begin_of(part);
    for (; key + kTileKeys <= end; key += kTileKeys) {
      if (ahead != nullptr) {
        for (int64_t i = key; i < key + kTileKeys; ++i) prefetch(ahead[i], args.head_size);
      }
      score_tile<kRows, kTileKeys>(args, row, keys + key, args.scores + key);
    }
    for (; key < end; ++key) score_tile<kRows, 1>(args, row, keys + key, args.scores + key);
  }
}

template <int kRows, typename Cache>
void weigh_rows(const AttendArgs& args, int64_t row, const Keys& range, const Cache* const* values,
                const Cache* const* ahead, const float* factors) {
  int64_t d = 0;
  for (; d + kTileVectors * kLanes <= args.head_size; d += kTileVectors * kLanes)
    weigh_tile<kRows, kTileVectors>(args, row, d, range, values, ahead, factors, LoadWhole{});
  for (; d + kLanes <= args.head_size; d += kLanes)
    weigh_tile<kRows, 1>(args, row, d, range, values, ahead, factors, LoadWhole{});
  if (d < args.head_size) {
    weigh_tile<kRows, 1>(args, row, d, range, values, ahead, factors,
                         LoadFirst{args.head_size - d});
  }
}

/// Calls function.template operator()<rows>(first row) for tiles of nearly equal height.
template <typename Function>
void for_row_tiles(int64_t begin, int64_t end, const Function& function) {
  const int64_t rows = end - begin, tiles = (rows + kMaxRows - 1) / kMaxRows;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t row = begin + rows * tile / tiles;
    switch (begin + rows * (tile + 1) / tiles - row) {
      case 1:
        function.template operator()<1>(row);
        break;
      case 2:
        function.template operator()<2>(row);
        break;
      case 3:
        function.template operator()<3>(row);
        break;
#if INFLIGHT_ISA_LEVEL >= 2
      case 4:
        function.template operator()<4>(row);
        break;
      case 5:
        function.template operator()<5>(row);
        break;
      case 6:
        function.template operator()<6>(row);
        break;
#endif
    }
  }
}

template <typename Cache>
void attend(const AttendArgs& args) {
  std::fill_n(args.maxima, args.rows, -INFINITY);
  std::fill_n(args.sums, args.rows, 0.0f);
  std::fill_n(args.outputs, args.rows * args.stride, 0.0f);
  // Of the range no row sees keys [hidden, seen_again).
  const int64_t hidden = std::clamp(args.num_sinks, args.begin, args.end);
  const int64_t seen_again =
      args.first == nullptr ? hidden : std::clamp<int64_t>(args.first[0], hidden, args.end);
  const Cache* all_keys[kSegmentKeys];
  const Cache* all_values[kSegmentKeys];
  const auto find = [&](int64_t begin, int64_t end) {
    int64_t block = begin / args.tokens_per_block, offset = begin % args.tokens_per_block;
    for (int64_t key = begin - args.begin; key < end - args.begin; ++key) {
      const uint8_t* from = args.cache + args.block_table[block] * args.block_bytes +
                            offset * args.head_size * static_cast<int64_t>(sizeof(Cache));
      all_keys[key] = reinterpret_cast<const Cache*>(from);
      all_values[key] = reinterpret_cast<const Cache*>(from + args.value_bytes);
      if (++offset == args.tokens_per_block) ++block, offset = 0;
    }
  };
  find(args.begin, hidden);
  find(seen_again, args.end);
  float* factors = args.scores + args.rows * kKeyTile;
  int64_t row = 0;  // rows before it see none of the keys left
  for (int64_t begin = args.begin; begin < args.end; begin += kKeyTile) {
    const int64_t num_keys = std::min(kKeyTile, args.end - begin);
    while (row < args.rows && args.visible[row] <= begin) ++row;
    int64_t end_row = args.rows;  // rows [row, end_row) see a key of the tile
    Keys range = {0, 0, num_keys};
    if (args.first != nullptr) {
      range.sinks = std::clamp<int64_t>(args.num_sinks - begin, 0, num_keys);
      while (range.sinks == 0 && end_row > row && args.first[end_row - 1] >= begin + num_keys)
        --end_row;
      if (row == end_row) continue;
      range.first = std::clamp<int64_t>(args.first[row] - begin, range.sinks, num_keys);
    }
    const Cache* const* keys = all_keys + (begin - args.begin);
    const Cache* const* values = all_values + (begin - args.begin);
    for_row_tiles(row, end_row, [&]<int kRows>(int64_t r) {
      score_rows<kRows>(args, r, range, keys, r == row ? values : nullptr);
    });
    for (int64_t r = row; r < end_row; ++r) {
      const int64_t end = std::min(args.visible[r] - begin, num_keys);
      const int64_t seen = args.first == nullptr ? 0 : std::min(args.first[r] - begin, end);
      factors[r] = soften_row(args.scores + r * kKeyTile, range.sinks, seen, end, args.scale,
                              args.maxima[r], args.sums[r]);
    }
    const int64_t next = begin + kKeyTile;
    const bool is_last = next + kKeyTile > args.end;  // or all but: no whole tile follows
    const bool looks_ahead = !is_last && (next + kKeyTile <= hidden || next >= seen_again);
    for_row_tiles(row, end_row, [&]<int kRows>(int64_t r) {
      weigh_rows<kRows>(args, r, range, values, r == row && looks_ahead ? keys + kKeyTile : nullptr,
                        factors);
    });
  }
}

AttendKernel attend_kernel(DType cache) {
  switch (cache) {
    case DType::kFloat16:
      return attend<Float16>;
    case DType::kBFloat16:
      return attend<BFloat16>;
    default:
      return attend<float>;
  }
}

}  // namespace inflight::cpu::INFLIGHT_ISA
