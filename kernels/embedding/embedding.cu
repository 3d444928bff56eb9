#include "kernels/core/cuda/copy_rows.cuh"
#include "kernels/embedding/embedding.h"

namespace inflight::cuda {

void embedding(const EmbeddingParams& params, OpContext& context) {
  copy_rows(params.table.data, params.ids.as<int32_t>(), params.y.data, params.table.shape[0],
            params.ids.shape[0], params.table.shape[1] * size_of(params.table.dtype), context);
}

}  // namespace inflight::cuda
