// load.h in a build without CUDA.
#include "kernels/core/load.h"
#include "kernels/core/no_cuda.h"

namespace inflight {

void place_async(const MatrixBlock&, int64_t, int64_t, const void*, DType, const Stream&) {
  no_cuda();
}
void fill_random_async(void*, DType, int64_t, const RandomValues&, const Stream&) { no_cuda(); }

}  // namespace inflight
