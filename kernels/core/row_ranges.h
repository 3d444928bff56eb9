// Ranges of row counts that are served alike: what is chosen by time for one serves its range.
// Eight to a power of two, two of many rows, whose races take long (0.1 s for the linears of an 8B
// layer at 8,192 rows). Up to 1,024 each ends at a size that generation steps are padded to: what
// these have raced serves the sequences of steps with prompts, which are not padded.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace inflight {

/// Row counts in the range that `rows` >= 1 is in.
constexpr int64_t row_range_size(int64_t rows) {
  const auto floor = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rows)));
  return std::max<int64_t>(rows <= 128 ? 16 : 32, floor / (rows <= 1024 ? 8 : 2));
}

/// The largest of them.
constexpr int64_t row_range_end(int64_t rows) {
  const int64_t size = row_range_size(rows);
  return (rows + size - 1) / size * size;
}

/// The largest row count of the range below; 0 if there is none.
constexpr int64_t row_range_below(int64_t rows) {
  const int64_t end = row_range_end(rows);
  return end - row_range_size(end - 1);
}

}  // namespace inflight
