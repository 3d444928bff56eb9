// Copies blocks of a paged cache inside their pool: whole blocks, or their first tokens. Called
// before a step runs, for prefixes that end inside a block and for blocks that are shared until
// written to; no plan names it. Moves each byte once: its floor is twice the bytes over the
// memory's bandwidth.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/core/op.h"

namespace inflight {

struct CopyBlocksParams {
  struct Copy {
    int32_t from;
    int32_t to;          // neither source nor target of another copy of the call
    int32_t num_tokens;  // the first of the block, from 1 to tokens_per_block
  };
  /// [num_blocks, rows, tokens_per_block, bytes] uint8, dense but for the first axis. A row is what
  /// a block holds of one layer's key or value head: `bytes` bytes a token.
  const TensorView& pool;
  std::span<const Copy> copies;  // host memory, read before the call returns
};

void copy_blocks(const CopyBlocksParams& params, OpContext& context);

namespace cpu {
void copy_blocks(const CopyBlocksParams& params, OpContext& context);
}

namespace cuda {
void copy_blocks(const CopyBlocksParams& params, OpContext& context);
}  // namespace cuda

}  // namespace inflight
