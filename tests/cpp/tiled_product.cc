// The product for GPUs where neither cuBLASLt nor a kernel of its own serves: on a machine that has
// them nothing else reaches it. Sums are integers that both dtypes hold exactly. Without a GPU
// there is nothing to test.
#include <cmath>
#include <cstdint>

#include "kernels/gemm/products.h"
#include "tests/cpp/gpu_matrix.h"
#include "tests/cpp/testing.h"

namespace inflight {
namespace {

template <typename T>
void multiplies([[maybe_unused]] int64_t rows, [[maybe_unused]] int64_t columns,
                [[maybe_unused]] int64_t depth) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  DeviceContext device(testing::kGpu, nullptr);
  const Stream& stream = device.stream();
  testing::Draws draws;
  using Matrix = testing::GpuMatrix<T>;
  const Matrix x(rows, depth, 1, draws, stream), weight(columns, depth, 1, draws, stream),
      bias(1, columns, 1, draws, stream);
  Matrix y(rows + 1, columns, stream);
  cuda::tiled_product({x.view, weight.view, bias.flat(), y.first(rows)}, device.op_context());
  y.download(stream);
  int wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column) {
      float want = bias.at(0, column);
      for (int64_t k = 0; k < depth; ++k) want += x.at(row, k) * weight.at(column, k);
      wrong += y.at(row, column) != want;
    }
  }
  EXPECT_EQ(wrong, 0);
  for (int64_t column = 0; column < columns; ++column) EXPECT(std::isnan(y.at(rows, column)));
#endif
}

/// The tiles are chosen by the rows: up to 16, up to 64, more.
void sizes() {
  for (const int64_t rows : {1, 7, 16, 17, 64, 65, 130, 257}) {
    for (const int64_t depth : {8, 72, 200}) {
      multiplies<cpu::BFloat16>(rows, 130, depth);
      multiplies<cpu::Float16>(rows, 257, depth);
    }
  }
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases({{"sizes", inflight::sizes}}, argc, argv);
}
