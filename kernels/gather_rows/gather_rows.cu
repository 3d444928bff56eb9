#include "kernels/core/cuda/copy_rows.cuh"
#include "kernels/gather_rows/gather_rows.h"

namespace inflight::cuda {

void gather_rows(const GatherRowsParams& params, OpContext& context) {
  copy_rows(params.x.data, params.rows.as<int32_t>(), params.y.data, params.x.shape[0],
            params.rows.shape[0], params.x.shape[1] * size_of(params.x.dtype), context);
}

}  // namespace inflight::cuda
