// A non-owning view of a strided array on a device: what ops read and write. Copying it copies no
// data; whoever made it keeps the memory alive.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/core/check.h"
#include "kernels/core/dtype.h"

namespace inflight {

enum class DeviceType : uint8_t { kCpu, kCuda };

struct Device {
  DeviceType type = DeviceType::kCpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

inline constexpr int kMaxRank = 5;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  Device device;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  std::array<int64_t, kMaxRank> strides{};  // in elements

  /// A dense row-major view.
  static TensorView dense(void* data, DType dtype, std::initializer_list<int64_t> shape,
                          Device device = {}) {
    TensorView view;
    check_internal(shape.size() <= kMaxRank, "tensor rank ", shape.size(), " > ", kMaxRank);
    view.data = data;
    view.dtype = dtype;
    view.device = device;
    for (int64_t extent : shape) view.shape[view.rank++] = extent;
    view.set_dense_strides();
    return view;
  }

  void set_dense_strides() {
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; --i) {
      strides[i] = stride;
      stride *= shape[i];
    }
  }

  int64_t num_elements() const {
    int64_t count = 1;
    for (int i = 0; i < rank; ++i) count *= shape[i];
    return count;
  }
  size_t bytes() const { return static_cast<size_t>(num_elements()) * size_of(dtype); }
  bool is_dense() const {
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; --i) {
      if (shape[i] != 1 && strides[i] != stride) return false;
      stride *= shape[i];
    }
    return true;
  }
  explicit operator bool() const { return data != nullptr; }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
};

}  // namespace inflight
