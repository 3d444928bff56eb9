// Linears of many rows on a GPU with what follows them: a residual, a gated activation. Sums are
// integers that bfloat16 holds exactly. Without a GPU there is nothing to test.
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/gemm/gemm.h"
#include "tests/cpp/gpu_matrix.h"
#include "tests/cpp/testing.h"

namespace inflight {
namespace {

using testing::kGpu;
using Matrix = testing::GpuMatrix<cpu::BFloat16>;

void adds([[maybe_unused]] int64_t rows, [[maybe_unused]] int64_t columns,
          [[maybe_unused]] int64_t depth, [[maybe_unused]] bool in_place) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  DeviceContext device(kGpu, nullptr);
  OpContext context = device.op_context();
  if (context.cublaslt == nullptr) return;
  const Stream& stream = device.stream();
  testing::Draws draws;
  const Matrix x(rows, depth, 1, draws, stream), weight(columns, depth, 1, draws, stream);
  Matrix residual(rows, columns, 90, draws, stream), y(rows, columns, stream);
  const TensorView none;
  const LinearParams params{x.view, weight.view, none, in_place ? residual.view : y.view};
  const Buffer workspace(cuda::linear_workspace_bytes(params), kGpu);
  context.workspace = {workspace.data(), workspace.bytes()};
  EXPECT(cuda::linear_add(params, residual.view, context));
  Matrix& out = in_place ? residual : y;
  const std::vector<cpu::BFloat16> before = residual.values;
  out.download(stream);
  if (!in_place) {
    residual.download(stream);
    for (size_t i = 0; i < before.size(); ++i) EXPECT_EQ(residual.values[i].bits, before[i].bits);
  }
  const int64_t stride = columns > 1000 ? 7 : 1;  // of the elements that are looked at
  int wrong = 0;
  for (int64_t row = 0; row < y.rows; ++row) {
    for (int64_t column = row % stride; column < y.columns; column += stride) {
      float want = cpu::to_float(before[row * y.columns + column]);
      for (int64_t k = 0; k < x.columns; ++k) want += x.at(row, k) * weight.at(column, k);
      wrong += out.at(row, column) != want;
    }
  }
  EXPECT_EQ(wrong, 0);
#endif
}

void gates([[maybe_unused]] int64_t rows, [[maybe_unused]] int64_t columns,
           [[maybe_unused]] int64_t depth) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  DeviceContext device(kGpu, nullptr);
  OpContext context = device.op_context();
  const Stream& stream = device.stream();
  testing::Draws draws;
  const Matrix x(rows, depth, 1, draws, stream), weight(2 * columns, depth, 1, draws, stream);
  Matrix y(rows + 1, columns, stream);
  const TensorView none;
  const bool done = cuda::linear_silu_mul({x.view, weight.view, none, y.first(rows)}, context);
  EXPECT_EQ(done, context.compute_capability == 90);
  if (!done) return;
  y.download(stream);
  const int64_t stride = rows * columns > 5'000'000 ? 7 : 1;  // of the elements that are looked at
  int wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = row % stride; column < columns; column += stride) {
      double gate = 0, up = 0;
      for (int64_t k = 0; k < depth; ++k) {
        gate += x.at(row, k) * weight.at(column, k);
        up += x.at(row, k) * weight.at(columns + column, k);
      }
      const double want = gate / (1 + std::exp(-gate)) * up;
      wrong += !(std::abs(y.at(row, column) - want) <= 0.008 * std::abs(want) + 1e-6);
    }
  }
  EXPECT_EQ(wrong, 0);
  for (int64_t column = 0; column < columns; ++column) EXPECT(std::isnan(y.at(rows, column)));
#endif
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  return inflight::testing::run_cases(
      {{"beside", [] { inflight::adds(130, 72, 64, false); }},
       {"in_place", [] { inflight::adds(130, 72, 64, true); }},
       {"beside_128", [] { inflight::adds(128, 4096, 520, false); }},
       {"in_place_121", [] { inflight::adds(121, 4088, 1032, true); }},
       {"in_place_65", [] { inflight::adds(65, 4096, 520, true); }},
       {"beside_77", [] { inflight::adds(77, 6144, 1032, false); }},
       {"beside_128_cut", [] { inflight::adds(128, 6136, 520, false); }},
       {"gated_65", [] { inflight::gates(65, 14336, 72); }},
       {"gated_194", [] { inflight::gates(194, 8184, 136); }},
       {"gated_512", [] { inflight::gates(512, 14336, 64); }},
       {"gated_100", [] { inflight::gates(100, 8192, 200); }},
       {"gated_70", [] { inflight::gates(70, 16640, 64); }},
       {"gated_200", [] { inflight::gates(200, 14336, 64); }},
       {"gated", [] { inflight::gates(1400, 1504, 72); }},
       {"gated_two_rounds", [] { inflight::gates(2800, 1504, 64); }}},
      argc, argv);
}
