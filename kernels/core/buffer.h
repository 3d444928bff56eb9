// Memory that callers of ops own: arenas, workspaces, caches. Ops themselves allocate nothing.
// Moves, never copies; freed by its destructor. Knows nothing of what lies in it.
#pragma once

#include <cstddef>
#include <utility>

#include "kernels/core/tensor_view.h"

namespace inflight {

class Buffer {
 public:
  Buffer() = default;
  /// `bytes` on `device`, aligned to 64 bytes (large ones to a page), contents undefined. Large
  /// host buffers take no physical memory until touched and give all of it back when freed. Raises
  /// resource_exhausted if there is not enough memory.
  explicit Buffer(size_t bytes, Device device = {});
  /// Page-locked host memory that CUDA devices copy from and to without stopping the caller; plain
  /// host memory in a build without CUDA or on a machine without a GPU.
  static Buffer pinned(size_t bytes);
  ~Buffer();
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  Device device() const { return device_; }

 private:
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(device_, other.device_);
    std::swap(pinned_, other.pinned_);
  }

  void* data_ = nullptr;
  size_t bytes_ = 0;
  Device device_;
  bool pinned_ = false;
};

}  // namespace inflight
