// The products of up to 64 rows, by stripes, by slices and by bands, with plans for weights of any
// size, which their selection has for some alone. Sums are integers that both dtypes hold exactly.
// Without a GPU there is nothing to test.
#include <cmath>
#include <cstdint>

#include "kernels/gemm/products.h"
#include "tests/cpp/gpu_matrix.h"
#include "tests/cpp/testing.h"

namespace inflight {
namespace {

struct Case {
  int64_t rows, columns, depth;  // columns: of y
  cuda::StripePlan plan;         // of no rows: slices, split so
  bool is_gated, has_residual, has_bias;
  int band_rows = 0;  // not 0: bands, and no plan
};

template <typename T>
void multiplies([[maybe_unused]] const Case& c) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  DeviceContext device(testing::kGpu, nullptr);
  const OpContext context = device.op_context();
  if (context.compute_capability != 90) return;
  const Stream& stream = device.stream();
  testing::Draws draws;
  const int64_t weight_rows = c.is_gated ? 2 * c.columns : c.columns;
  using Matrix = testing::GpuMatrix<T>;
  const Matrix x(c.rows, c.depth, 1, draws, stream), weight(weight_rows, c.depth, 1, draws, stream),
      bias(1, weight_rows, 1, draws, stream), residual(c.rows, c.columns, 1, draws, stream);
  Matrix y(c.rows + 1, c.columns, stream);
  const TensorView none;
  const cuda::FusedProductParams params{
      .linear = {x.view, weight.view, c.has_bias ? bias.flat() : none, y.first(c.rows)},
      .norm_weight = none,
      .epsilon = 0,
      .residual = c.has_residual ? residual.view : none,
      .is_gated = c.is_gated};
  if (c.band_rows > 0) {
    cuda::band_product(params, c.band_rows, context);
  } else if (c.plan.rows > 0) {
    cuda::stripe_product(params, c.plan, context);
  } else {
    cuda::slice_product(params, c.plan.split, context);
  }
  y.download(stream);
  const auto sum_of = [&](int64_t row, int64_t weight_row) {
    float sum = c.has_bias ? bias.at(0, weight_row) : 0.0f;
    for (int64_t k = 0; k < c.depth; ++k) sum += x.at(row, k) * weight.at(weight_row, k);
    return sum;
  };
  int wrong = 0;
  for (int64_t row = 0; row < c.rows; ++row) {
    for (int64_t column = 0; column < c.columns; ++column) {
      float want = sum_of(row, column), allowed = 0;
      if (c.is_gated) {  // three roundings, of float16 also of subnormals
        want = want / (1 + std::exp(-want)) * sum_of(row, c.columns + column);
        allowed = std::abs(want) / 64 + 1e-4f;
      }
      if (c.has_residual) {
        want += residual.at(row, column);
        if (c.is_gated) allowed += std::abs(want) / 128;
      }
      wrong += !(std::abs(y.at(row, column) - want) <= allowed);
    }
  }
  EXPECT_EQ(wrong, 0);
  for (int64_t column = 0; column < c.columns; ++column) EXPECT(std::isnan(y.at(c.rows, column)));
#endif
}

// As many rows as a kernel's and fewer; stripes of one warpgroup and of two, cut short, beyond the
// last row; depths of part of a chunk, of many turns of the ring, and shared unevenly.
void stripes() {
  const cuda::StripePlan plans[] = {{8, 1, 1}, {24, 1, 2}, {64, 1, 1}, {72, 1, 1}, {128, 1, 2}};
  for (const auto& plan : plans) {
    for (const int64_t rows : {9, 16, 31, 33, 64}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>({rows, 200, 72, plan, false, some, !some});
      multiplies<cpu::Float16>({rows, 136, 8, plan, false, !some, some});
    }
  }
  multiplies<cpu::BFloat16>({17, 72, 4000, {64, 1, 1}, false, true, true});
}

void shared_depths() {
  const cuda::StripePlan plans[] = {{32, 2, 1}, {64, 2, 1}, {96, 2, 1}, {128, 2, 2}};
  for (const auto& plan : plans) {
    for (const int64_t rows : {9, 32, 50}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>({rows, 200, 264, plan, false, some, !some});
      multiplies<cpu::Float16>({rows, 104, 1160, plan, false, !some, some});
    }
  }
}

void gates() {
  const cuda::StripePlan plans[] = {{16, 1, 1}, {64, 1, 2}, {112, 1, 2}, {96, 2, 1}};
  for (const auto& plan : plans) {
    for (const int64_t rows : {9, 32, 50, 64}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>({rows, 120, 328, plan, true, some, !some});
      multiplies<cpu::Float16>({rows, 72, 520, plan, true, !some, some});
    }
  }
}

void slices() {
  for (const int split : {1, 2, 4}) {
    const cuda::StripePlan plan{.rows = 0, .split = split};
    for (const int64_t rows : {3, 16, 32, 50, 64}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>({rows, 200, 1096, plan, false, some, !some});
      multiplies<cpu::BFloat16>({rows, 72, 2056, plan, true, !some, some});
      multiplies<cpu::Float16>({rows, 104, 1160, plan, some, !some, some});
    }
  }
}

// Bands of three and of four warpgroups, whole and cut short, whose blocks finish as much and not;
// beyond the last weight row; depths of part of a chunk and shared unevenly.
void bands() {
  for (const int band_rows : {144, 160, 192, 208, 256}) {
    for (const int64_t rows : {3, 32, 50, 64}) {
      const bool some = rows % 3 == 2;
      multiplies<cpu::BFloat16>({rows, 424, 1096, {}, false, some, !some, band_rows});
      multiplies<cpu::Float16>({rows, 200, 264, {}, false, !some, some, band_rows});
    }
  }
  multiplies<cpu::BFloat16>({64, 144, 8008, {}, false, true, true, 144});
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases({{"stripes", stripes},
                             {"shared_depths", shared_depths},
                             {"gates", gates},
                             {"slices", slices},
                             {"bands", bands}},
                            argc, argv);
}
