// The products of up to 64 rows, by stripes and by slices, with plans for weights of any size,
// which their selection has for some alone. Sums are integers that both dtypes hold exactly.
// Without a GPU there is nothing to test.
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/core/cpu/convert.h"
#include "kernels/core/device.h"
#include "kernels/gemm/products.h"
#include "tests/cpp/testing.h"

namespace inflight {
namespace {

struct Case {
  int64_t rows, columns, depth;  // columns: of y
  cuda::StripePlan plan;         // of no rows: slices, split so
  bool is_gated, has_residual, has_bias;
};

template <typename T>
void multiplies([[maybe_unused]] DType dtype, [[maybe_unused]] const Case& c) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0) return;
  constexpr Device kGpu{DeviceType::kCuda, 0};
  DeviceContext device(kGpu, nullptr);
  const OpContext context = device.op_context();
  if (context.compute_capability != 90) return;
  const Stream& stream = device.stream();
  uint32_t state = 1;
  const auto draw = [&](int64_t count) {  // of -1, 0 and 1, 0 the half of them
    std::vector<T> values;
    for (int64_t i = 0; i < count; ++i) {
      state = state * 1664525 + 1013904223;
      const int value = static_cast<int>(state >> 28 & 3) - 1;
      values.push_back(cpu::from_float<T>(static_cast<float>(value == 2 ? 0 : value)));
    }
    return values;
  };
  const auto upload = [&](const std::vector<T>& values) {
    Buffer memory(values.size() * sizeof(T), kGpu);
    copy_async(memory.data(), values.data(), memory.bytes(), stream);
    return memory;
  };
  const int64_t halves = c.is_gated ? 2 : 1, weight_rows = c.columns * halves;
  const std::vector<T> x = draw(c.rows * c.depth), weight = draw(weight_rows * c.depth),
                       bias = draw(weight_rows), residual = draw(c.rows * c.columns);
  const Buffer x_memory = upload(x), weight_memory = upload(weight), bias_memory = upload(bias),
               residual_memory = upload(residual);
  Buffer y_memory((c.rows + 1) * c.columns * sizeof(T), kGpu);
  fill_async(y_memory.data(), 0xff, y_memory.bytes(), stream);  // NaN
  const auto view = [&](const Buffer& memory, std::initializer_list<int64_t> shape) {
    return TensorView::dense(memory.data(), dtype, shape, kGpu);
  };
  const TensorView none, x_view = view(x_memory, {c.rows, c.depth}),
                         weight_view = view(weight_memory, {weight_rows, c.depth}),
                         bias_view = view(bias_memory, {weight_rows}),
                         residual_view = view(residual_memory, {c.rows, c.columns}),
                         y_view = view(y_memory, {c.rows, c.columns});
  const cuda::FusedProductParams params{
      .linear = {x_view, weight_view, c.has_bias ? bias_view : none, y_view},
      .norm_weight = none,
      .epsilon = 0,
      .residual = c.has_residual ? residual_view : none,
      .is_gated = c.is_gated};
  if (c.plan.rows > 0) {
    cuda::stripe_product(params, c.plan, context);
  } else {
    cuda::slice_product(params, c.plan.split, context);
  }
  std::vector<T> y((c.rows + 1) * c.columns);
  copy_async(y.data(), y_memory.data(), y_memory.bytes(), stream);
  stream.synchronize();
  const auto sum_of = [&](int64_t row, int64_t weight_row) {
    float sum = c.has_bias ? cpu::to_float(bias[weight_row]) : 0.0f;
    for (int64_t k = 0; k < c.depth; ++k)
      sum += cpu::to_float(x[row * c.depth + k]) * cpu::to_float(weight[weight_row * c.depth + k]);
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
        want += cpu::to_float(residual[row * c.columns + column]);
        if (c.is_gated) allowed += std::abs(want) / 128;
      }
      const float got = cpu::to_float(y[row * c.columns + column]);
      wrong += !(std::abs(got - want) <= allowed);
    }
  }
  EXPECT_EQ(wrong, 0);
  for (int64_t column = 0; column < c.columns; ++column)
    EXPECT_EQ(y[c.rows * c.columns + column].bits, 0xffff);
#endif
}

// As many rows as a kernel's and fewer; stripes of one warpgroup and of two, cut short, beyond the
// last row; depths of part of a chunk, of many turns of the ring, and shared unevenly.
void stripes() {
  const cuda::StripePlan plans[] = {{8, 1, 1}, {24, 1, 2}, {64, 1, 1}, {72, 1, 1}, {128, 1, 2}};
  for (const auto& plan : plans) {
    for (const int64_t rows : {9, 16, 31, 33, 64}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>(DType::kBFloat16, {rows, 200, 72, plan, false, some, !some});
      multiplies<cpu::Float16>(DType::kFloat16, {rows, 136, 8, plan, false, !some, some});
    }
  }
  multiplies<cpu::BFloat16>(DType::kBFloat16, {17, 72, 4000, {64, 1, 1}, false, true, true});
}

void shared_depths() {
  const cuda::StripePlan plans[] = {{32, 2, 1}, {64, 2, 1}, {96, 2, 1}, {128, 2, 2}};
  for (const auto& plan : plans) {
    for (const int64_t rows : {9, 32, 50}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>(DType::kBFloat16, {rows, 200, 264, plan, false, some, !some});
      multiplies<cpu::Float16>(DType::kFloat16, {rows, 104, 1160, plan, false, !some, some});
    }
  }
}

void gates() {
  const cuda::StripePlan plans[] = {{16, 1, 1}, {64, 1, 2}, {112, 1, 2}, {96, 2, 1}};
  for (const auto& plan : plans) {
    for (const int64_t rows : {9, 32, 50, 64}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>(DType::kBFloat16, {rows, 120, 328, plan, true, some, !some});
      multiplies<cpu::Float16>(DType::kFloat16, {rows, 72, 520, plan, true, !some, some});
    }
  }
}

void slices() {
  for (const int split : {1, 2, 4}) {
    const cuda::StripePlan plan{.rows = 0, .split = split};
    for (const int64_t rows : {3, 16, 32, 50, 64}) {
      const bool some = rows % 2 == 0;
      multiplies<cpu::BFloat16>(DType::kBFloat16, {rows, 200, 1096, plan, false, some, !some});
      multiplies<cpu::BFloat16>(DType::kBFloat16, {rows, 72, 2056, plan, true, !some, some});
      multiplies<cpu::Float16>(DType::kFloat16, {rows, 104, 1160, plan, some, !some, some});
    }
  }
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases({{"stripes", stripes},
                             {"shared_depths", shared_depths},
                             {"gates", gates},
                             {"slices", slices}},
                            argc, argv);
}
