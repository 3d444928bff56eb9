#include "kernels/core/cuda/error.h"
#include "kernels/core/cuda/tensor_map.h"

namespace inflight::cuda {

TensorMapEncode tensor_map_encode() {
  static const TensorMapEncode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                cudaEnableDefault, &result),
               "cudaGetDriverEntryPointByVersion");
    check_internal(result == cudaDriverEntryPointSuccess, "the driver has no tensor maps");
    return reinterpret_cast<TensorMapEncode>(function);
  }();
  return encode;
}

}  // namespace inflight::cuda
