// Values of a number fixed at construction, looked at all over: in pages as large as there are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "kernels/core/buffer.h"

namespace inflight::kv_cache {

template <typename T>
class LargeArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  LargeArray(size_t size, const T& value) : size_(size), memory_(size * sizeof(T)) { fill(value); }

  size_t size() const { return size_; }
  T& operator[](size_t i) { return data()[i]; }
  const T& operator[](size_t i) const { return data()[i]; }
  const T* begin() const { return data(); }
  const T* end() const { return data() + size_; }
  void fill(const T& value) { std::fill_n(data(), size_, value); }

 private:
  T* data() const { return static_cast<T*>(memory_.data()); }

  size_t size_;
  Buffer memory_;
};

}  // namespace inflight::kv_cache
