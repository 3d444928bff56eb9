#include <cstring>

#include "kernels/core/cpu/parallel.h"
#include "kernels/embedding/embedding.h"

namespace inflight::cpu {

void embedding(const EmbeddingParams& params, OpContext& context) {
  const auto* ids = params.ids.as<int32_t>();
  const auto* table = params.table.as<uint8_t>();
  auto* y = params.y.as<uint8_t>();
  const int64_t vocab_size = params.table.shape[0];
  const size_t row_bytes = params.table.shape[1] * size_of(params.table.dtype);
  const int64_t grain = grain_for(row_bytes);
  context.pool->parallel_for(
      params.ids.shape[0],
      [&](int64_t begin, int64_t end, int) {
        for (int64_t t = begin; t < end; ++t) {
          if (ids[t] >= 0 && ids[t] < vocab_size) {
            std::memcpy(y + t * row_bytes, table + ids[t] * row_bytes, row_bytes);
          } else {
            std::memset(y + t * row_bytes, 0, row_bytes);
          }
        }
      },
      grain);
}

}  // namespace inflight::cpu
