// Matrices in host and GPU memory, of integers small enough for products whose sums both 16-bit
// dtypes hold exactly.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor_view.h"

namespace inflight::testing {

inline constexpr Device kGpu{DeviceType::kCuda, 0};

/// A linear congruential generator: the same numbers on every machine.
class Draws {
 public:
  /// The upper bits are the better ones.
  uint32_t bits() { return state_ = state_ * 1664525 + 1013904223; }
  /// Of [-1, 1).
  float uniform() { return static_cast<float>(bits() >> 8) / (1 << 23) - 1; }
  /// Of [-largest, largest]; if that is 1, half of them are zero.
  int integer(int largest) {
    const auto below = [&] { return static_cast<int>(uint64_t{bits()} * (largest + 1) >> 32); };
    const int from = below();
    return from - below();
  }

 private:
  uint32_t state_ = 1;
};

/// [rows, columns] of T, cpu::BFloat16 or cpu::Float16.
template <typename T>
struct GpuMatrix {
  static constexpr DType kDType =
      std::is_same_v<T, cpu::Float16> ? DType::kFloat16 : DType::kBFloat16;

  int64_t rows, columns;
  std::vector<T> values;
  Buffer memory;
  TensorView view;

  /// NaN, on the GPU.
  GpuMatrix(int64_t rows, int64_t columns, const Stream& stream)
      : rows(rows),
        columns(columns),
        values(rows * columns),
        memory(rows * columns * sizeof(T), kGpu),
        view(first(rows)) {
    fill_async(memory.data(), 0xff, memory.bytes(), stream);
  }
  /// Integers, here and there.
  GpuMatrix(int64_t rows, int64_t columns, int largest, Draws& draws, const Stream& stream)
      : GpuMatrix(rows, columns, stream) {
    for (T& value : values) value = cpu::from_float<T>(static_cast<float>(draws.integer(largest)));
    copy_async(memory.data(), values.data(), memory.bytes(), stream);
  }
  TensorView first(int64_t num_rows) const {
    return TensorView::dense(memory.data(), kDType, {num_rows, columns}, kGpu);
  }
  /// All of it as a vector.
  TensorView flat() const {
    return TensorView::dense(memory.data(), kDType, {rows * columns}, kGpu);
  }
  void download(const Stream& stream) {
    copy_async(values.data(), memory.data(), memory.bytes(), stream);
    stream.synchronize();
  }
  float at(int64_t row, int64_t column) const {
    return cpu::to_float(values[row * columns + column]);
  }
};

}  // namespace inflight::testing
