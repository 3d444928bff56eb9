// load.h on CUDA. Plain launches: nothing runs beside them. Both are far above what PCIe brings.
#include <algorithm>
#include <type_traits>

#include "kernels/core/check.h"
#include "kernels/core/cuda/convert.cuh"
#include "kernels/core/cuda/error.h"
#include "kernels/core/cuda/vec.cuh"
#include "kernels/core/load.h"

namespace inflight {
namespace cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 132 * 32;

template <typename To, typename From>
__global__ void place_kernel(To* to, int64_t columns, int64_t stride, int64_t first, int64_t count,
                             const From* packed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const int64_t element = first + i;
    const int64_t row = element / columns;
    To& target = to[row * stride + element - row * columns];
    if constexpr (std::is_same_v<To, From>) {
      target = packed[i];
    } else {
      target = from_float<To>(to_float(packed[i]));
    }
  }
}

/// A thread makes a group of random_sums at a time.
template <typename T>
__global__ void random_kernel(T* to, int64_t count, RandomValues values) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t group = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; group * 4 < count;
       group += step) {
    const auto sums = random_sums(values.seed, static_cast<uint64_t>(group));
    Vec<T, 4> made;
    for (int k = 0; k < 4; ++k) {
      made[k] = from_float<T>(values.centre + values.scale * static_cast<float>(sums[k]));
    }
    if (group * 4 + 4 <= count) {
      store_vec(to + group * 4, made);
    } else {
      for (int k = 0; group * 4 + k < count; ++k) to[group * 4 + k] = made[k];
    }
  }
}

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>(
      std::clamp<int64_t>((threads + kThreads - 1) / kThreads, 1, kMaxBlocks));
}

template <typename To, typename From>
void place_as(const MatrixBlock& to, int64_t first, int64_t count, const void* packed,
              cudaStream_t stream) {
  place_kernel<To, From>
      <<<blocks_for(count), kThreads, 0, stream>>>(static_cast<To*>(to.data), to.columns, to.stride,
                                                   first, count, static_cast<const From*>(packed));
  check_cuda(cudaGetLastError(), "place_kernel");
}

}  // namespace
}  // namespace cuda

void place_async(const MatrixBlock& to, int64_t first, int64_t count, const void* packed,
                 DType packed_dtype, const Stream& stream) {
  if (count == 0) return;
  const auto handle = static_cast<cudaStream_t>(stream.handle());
  if (to.dtype == packed_dtype) {
    const size_t size = size_of(to.dtype);
    if (size == 1) return cuda::place_as<uint8_t, uint8_t>(to, first, count, packed, handle);
    if (size == 2) return cuda::place_as<uint16_t, uint16_t>(to, first, count, packed, handle);
    if (size == 4) return cuda::place_as<uint32_t, uint32_t>(to, first, count, packed, handle);
    return cuda::place_as<uint64_t, uint64_t>(to, first, count, packed, handle);
  }
  cuda::with_floating(to.dtype, [&]<typename To>() {
    cuda::with_floating(packed_dtype, [&]<typename From>() {
      if constexpr (!std::is_same_v<To, From>) {
        cuda::place_as<To, From>(to, first, count, packed, handle);
      }
    });
  });
}

void fill_random_async(void* to, DType dtype, int64_t count, const RandomValues& values,
                       const Stream& stream) {
  if (count == 0) return;
  cuda::with_floating(dtype, [&]<typename T>() {
    cuda::random_kernel<T>
        <<<cuda::blocks_for((count + 3) / 4), cuda::kThreads, 0,
           static_cast<cudaStream_t>(stream.handle())>>>(static_cast<T*>(to), count, values);
    cuda::check_cuda(cudaGetLastError(), "random_kernel");
  });
}

}  // namespace inflight
