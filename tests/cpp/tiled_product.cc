// The product for GPUs where neither cuBLASLt nor a kernel of its own serves: on a machine that has
// them nothing else reaches it. Sums are integers that both dtypes hold exactly. Without a GPU
// there is nothing to test.
#include <cstdint>
#include <vector>

#include "kernels/core/cpu/convert.h"
#include "kernels/core/device.h"
#include "kernels/gemm/products.h"
#include "tests/cpp/testing.h"

namespace inflight {
namespace {

template <typename T>
void multiplies([[maybe_unused]] DType dtype, [[maybe_unused]] int64_t rows,
                [[maybe_unused]] int64_t columns, [[maybe_unused]] int64_t depth) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  constexpr Device kGpu{DeviceType::kCuda, 0};
  DeviceContext device(kGpu, nullptr);
  const OpContext context = device.op_context();
  const Stream& stream = device.stream();
  uint32_t state = 1;
  const auto draw = [&](int64_t count) {  // of -1, 0 and 1
    std::vector<T> values;
    for (int64_t i = 0; i < count; ++i) {
      state = state * 1664525 + 1013904223;
      values.push_back(cpu::from_float<T>(static_cast<float>(state >> 16 & 3) - 1.0f));
      if (values.back().bits == cpu::from_float<T>(2.0f).bits) values.back().bits = 0;
    }
    return values;
  };
  const auto upload = [&](const std::vector<T>& values) {
    Buffer memory(values.size() * sizeof(T), kGpu);
    copy_async(memory.data(), values.data(), memory.bytes(), stream);
    return memory;
  };
  const std::vector<T> x = draw(rows * depth), weight = draw(columns * depth), bias = draw(columns);
  const Buffer x_memory = upload(x), weight_memory = upload(weight), bias_memory = upload(bias);
  Buffer y_memory((rows + 1) * columns * sizeof(T), kGpu);
  fill_async(y_memory.data(), 0xff, y_memory.bytes(), stream);  // NaN
  cuda::tiled_product({TensorView::dense(x_memory.data(), dtype, {rows, depth}, kGpu),
                       TensorView::dense(weight_memory.data(), dtype, {columns, depth}, kGpu),
                       TensorView::dense(bias_memory.data(), dtype, {columns}, kGpu),
                       TensorView::dense(y_memory.data(), dtype, {rows, columns}, kGpu)},
                      context);
  std::vector<T> y((rows + 1) * columns);
  copy_async(y.data(), y_memory.data(), y_memory.bytes(), stream);
  stream.synchronize();
  int wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      float want = cpu::to_float(bias[column]);
      for (int64_t k = 0; k < depth; ++k)
        want += cpu::to_float(x[row * depth + k]) * cpu::to_float(weight[column * depth + k]);
      wrong += cpu::to_float(y[row * columns + column]) != want;
    }
  }
  EXPECT_EQ(wrong, 0);
  for (int64_t column = 0; column < columns; ++column)
    EXPECT_EQ(y[rows * columns + column].bits, 0xffff);
#endif
}

/// The tiles are chosen by the rows: up to 16, up to 64, more.
void sizes() {
  for (const int64_t rows : {1, 7, 16, 17, 64, 65, 130, 257}) {
    for (const int64_t depth : {8, 72, 200}) {
      multiplies<cpu::BFloat16>(DType::kBFloat16, rows, 130, depth);
      multiplies<cpu::Float16>(DType::kFloat16, rows, 257, depth);
    }
  }
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases({{"sizes", inflight::sizes}}, argc, argv);
}
