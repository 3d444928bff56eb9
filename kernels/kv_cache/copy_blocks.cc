#include "kernels/kv_cache/copy_blocks.h"

#include "kernels/core/check.h"
#include "kernels/core/check_tensor.h"
#include "kernels/core/dispatch.h"

namespace inflight {
namespace {

void check_params(const CopyBlocksParams& p) {
  check_shape("copy_blocks: pool", p.pool, {-1, -1, -1, -1});
  check_blocks_dense("copy_blocks: pool", p.pool);
  check_dtype("copy_blocks: pool", p.pool, DType::kUInt8);
  const int64_t num_blocks = p.pool.shape[0], tokens_per_block = p.pool.shape[2];
  for (size_t i = 0; i < p.copies.size(); ++i) {
    const auto& [from, to, num_tokens] = p.copies[i];
    check(from >= 0 && from < num_blocks && to >= 0 && to < num_blocks, "copy_blocks: copy ", i,
          " is from block ", from, " to ", to, " of a pool of ", num_blocks);
    check(from != to, "copy_blocks: copy ", i, " is from block ", from, " to itself");
    check(num_tokens >= 1 && num_tokens <= tokens_per_block, "copy_blocks: copy ", i, " is of ",
          num_tokens, " tokens, a block has ", tokens_per_block);
  }
}

}  // namespace

void copy_blocks(const CopyBlocksParams& params, OpContext& context) {
  check_params(params);
  if (params.copies.empty() || params.pool.num_elements() == 0) return;
  INFLIGHT_DISPATCH(copy_blocks, params, context);
}

}  // namespace inflight
