// load.h in a build without CUDA.
#include "kernels/core/check.h"
#include "kernels/core/load.h"

namespace inflight {
namespace {

[[noreturn]] void no_cuda() {
  throw Error(ErrorCode::kUnsupported, "this build has no CUDA; use the cpu device");
}

}  // namespace

void place_async(const MatrixBlock&, int64_t, int64_t, const void*, DType, const Stream&) {
  no_cuda();
}
void fill_random_async(void*, DType, int64_t, const RandomValues&, const Stream&) { no_cuda(); }

}  // namespace inflight
