// Wide accesses: a thread moves 16 bytes at a time where pointers and lengths allow it.
#pragma once

#include <cstdint>

#include "kernels/core/cuda/convert.cuh"

namespace inflight::cuda {

/// N elements side by side, aligned as a whole (N a power of two, at most 16 bytes).
template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
  T data[N];
  __device__ __forceinline__ T& operator[](int i) { return data[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return data[i]; }
};

/// Elements of T in 16 bytes.
template <typename T>
inline constexpr int kVecSize = 16 / sizeof(T);

template <typename T, int N>
__device__ __forceinline__ Vec<T, N> load_vec(const T* from) {
  return *reinterpret_cast<const Vec<T, N>*>(from);
}
template <typename T, int N>
__device__ __forceinline__ void store_vec(T* to, const Vec<T, N>& value) {
  *reinterpret_cast<Vec<T, N>*>(to) = value;
}

/// Whether rows of `row_elements` from `data` on can be read 16 bytes at a time.
template <typename T>
bool is_vectorizable(const void* data, int64_t row_elements) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row_elements % kVecSize<T> == 0;
}

}  // namespace inflight::cuda
