// The inner part of attention on the CPU: some query rows that share one kv head, over a range of
// their sequence's keys. Works on raw memory and trusts its caller. A row's bits depend on its own
// query, keys and range alone, not on the rows beside it.
#pragma once

#include <cstdint>

#include "kernels/core/cpu/isa.h"
#include "kernels/core/dtype.h"

namespace inflight::cpu {

// Keys are taken so many at a time, from positions that are multiples of it.
inline constexpr int64_t kKeyTile = 64;
// The longest range of keys of one call.
inline constexpr int64_t kSegmentKeys = 512;
// A padded row of floats has a multiple of so many.
inline constexpr int64_t kRowAlignment = 16;

struct AttendArgs {
  int64_t rows;
  int64_t head_size;
  int64_t stride;        // floats from row to row of queries and outputs, padded
  const float* queries;  // [rows, stride], zero beyond head_size
  // [rows] A row sees keys [first, visible) of its sequence, and the first num_sinks; ascending,
  // and none empty. Null: from 0.
  const int32_t* first;
  const int32_t* visible;
  int64_t num_sinks;
  float scale;

  const uint8_t* cache;  // keys of this kv head in block 0
  int64_t block_bytes;   // from block to block
  int64_t value_bytes;   // from a key to its value
  int64_t tokens_per_block;
  const int32_t* block_table;  // read, like the blocks, where a row sees one of its keys
  int64_t begin, end;          // positions of the keys; begin is a multiple of kKeyTile,
                               // end at most kSegmentKeys beyond

  float* scores;   // [rows, kKeyTile + 1] scratch
  float* maxima;   // [rows] out: largest score, -infinity if the row sees no key of the range
  float* sums;     // [rows] out: sum of exp(score - maximum)
  float* outputs;  // [rows, stride] out: the values weighted with these, not yet divided
};

using AttendKernel = void (*)(const AttendArgs& args);

AttendKernel attend_kernel(Isa isa, DType cache);

namespace baseline {
AttendKernel attend_kernel(DType cache);
}
namespace avx2 {
AttendKernel attend_kernel(DType cache);
}
namespace avx512 {
AttendKernel attend_kernel(DType cache);
}

}  // namespace inflight::cpu
