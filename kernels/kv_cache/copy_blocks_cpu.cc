#include <cstring>

#include "kernels/core/cpu/parallel.h"
#include "kernels/kv_cache/copy_blocks.h"

namespace inflight::cpu {

void copy_blocks(const CopyBlocksParams& params, OpContext& context) {
  const TensorView& pool = params.pool;
  const int64_t rows = pool.shape[1];
  auto* const data = pool.as<uint8_t>();
  context.pool->parallel_for(
      static_cast<int64_t>(params.copies.size()),
      [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          const auto& [from, to, num_tokens] = params.copies[i];
          const uint8_t* source = data + from * pool.strides[0];
          uint8_t* target = data + to * pool.strides[0];
          if (num_tokens == pool.shape[2]) {
            std::memcpy(target, source, rows * pool.strides[1]);
            continue;
          }
          for (int64_t row = 0; row < rows; ++row) {
            std::memcpy(target + row * pool.strides[1], source + row * pool.strides[1],
                        num_tokens * pool.strides[2]);
          }
        }
      },
      cpu::grain_for(2 * rows * pool.strides[1]));
}

}  // namespace inflight::cpu
