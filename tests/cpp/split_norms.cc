// The norm between two linears of few rows, half of it in each kernel, against sums in double and
// the roundings on the way. Without a GPU there is nothing to test.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>
#include <vector>

#include "tests/cpp/layer_linears.h"

namespace inflight {
namespace {

using testing::kGpu;
using testing::Matrix;

struct Case {
  int64_t depth, hidden, columns;  // [hidden, depth] weights, then [columns, hidden]
  bool is_gated;
};

float value_of(uint16_t bits) { return cpu::to_float(cpu::BFloat16{bits}); }

[[maybe_unused]] uint16_t rounded(float value) {
  return cpu::from_float<cpu::BFloat16>(value).bits;
}

constexpr float kEpsilon = 1e-5f;

struct Pair {
  DeviceContext device{kGpu, nullptr};
  const Stream& stream = device.stream();
  Case shape;
  Matrix first, second, norm, x, residual;
  Buffer workspace{48 << 20, kGpu};

  Pair(const Case& c, int64_t rows)
      : shape(c),
        first(c.hidden, c.depth, 0.05f, stream),
        second(c.is_gated ? 2 * c.columns : c.columns, c.hidden, 0.05f, stream),
        norm(1, c.hidden, 1.5f, stream),
        x(rows, c.depth, 1, stream),
        residual(rows, c.hidden, 3, stream) {}

  struct Made {
    std::vector<uint16_t> y, scaled, z;
  };
  /// Of the first rows.
  Made run(int64_t rows) {
    const auto some = [&](const Matrix& matrix) {
      TensorView view = matrix.view;
      view.shape[0] = rows;
      return view;
    };
    OpContext context = device.op_context();
    context.workspace = {workspace.data(), workspace.bytes()};
    const TensorView none,
        x_view = some(x), residual_view = some(residual),
        g = TensorView::dense(norm.memory.data(), DType::kBFloat16, {shape.hidden}, kGpu);
    // One row more than there are.
    const Matrix y(rows + 1, shape.hidden, 1, stream), z(rows + 1, shape.columns, 1, stream);
    for (const Matrix* matrix : {&y, &z})
      fill_async(matrix->memory.data(), 0xff, matrix->view.bytes(), stream);
    fill_async(workspace.data(), 0xff, workspace.bytes(), stream);
    const TensorView y_view = some(y), z_view = some(z);
    const FusedLinearParams links[] = {{.x = x_view,
                                        .weight = first.view,
                                        .bias = none,
                                        .norm_weight = none,
                                        .residual = residual_view,
                                        .y = y_view,
                                        .epsilon = 0,
                                        .is_gated = false},
                                       {.x = y_view,
                                        .weight = second.view,
                                        .bias = none,
                                        .norm_weight = g,
                                        .residual = none,
                                        .y = z_view,
                                        .epsilon = kEpsilon,
                                        .is_gated = shape.is_gated}};
    fused_linears(links, context);
    Made made{.y = y.download(stream), .z = z.download(stream)};
    made.scaled.resize(rows * shape.hidden);
    copy_async(made.scaled.data(), workspace.data(), made.scaled.size() * 2, stream);
    stream.synchronize();
    return made;
  }
};

[[maybe_unused]] double dot(const uint16_t* a, const uint16_t* b, int64_t count) {
  double sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += double{value_of(a[k])} * value_of(b[k]);
  return sum;
}

/// `least_rows`: of as many and more the same kernels are chosen.
void check_pair([[maybe_unused]] const Case& c, [[maybe_unused]] int64_t most_rows,
                [[maybe_unused]] int64_t least_rows = 1) {
#ifdef INFLIGHT_CUDA
  if (num_cuda_devices() == 0 || device_facts(kGpu).compute_capability != 90) return;
  Pair pair(c, most_rows);
  const Stream& stream = pair.stream;
  const auto first = pair.first.download(stream), second = pair.second.download(stream),
             x = pair.x.download(stream), residual = pair.residual.download(stream),
             g = pair.norm.download(stream);
  const auto all = pair.run(most_rows);
  const int64_t step = std::max<int64_t>(1, c.columns / 61);  // of the columns looked at
  int wrong = 0, wrong_scaled = 0, wrong_z = 0;
  for (int64_t row = 0; row < most_rows; ++row) {
    double squares = 0;
    for (int64_t k = 0; k < c.hidden; ++k) {
      const int64_t at = row * c.hidden + k;
      const float y = value_of(all.y[at]);
      squares += double{y} * y;
      // That the norm's first half is here tells that the kernels share it.
      wrong_scaled += all.scaled[at] != rounded(y * value_of(g[k]));
      if (k % 61 != row % 61) continue;
      const double sum = dot(&x[row * c.depth], &first[k * c.depth], c.depth);
      const double want = sum + value_of(residual[at]);
      wrong += !(std::abs(y - want) <= (std::abs(sum) + std::abs(want)) / 200 + 1e-4);
    }
    const double scale = 1 / std::sqrt(squares / static_cast<double>(c.hidden) + kEpsilon);
    const auto sum_of = [&](int64_t column) {
      return scale * dot(&all.scaled[row * c.hidden], &second[column * c.hidden], c.hidden);
    };
    for (int64_t column = row % step; column < c.columns; column += step) {
      double want = sum_of(column);
      if (c.is_gated) want = want / (1 + std::exp(-want)) * sum_of(c.columns + column);
      const double z = value_of(all.z[row * c.columns + column]);
      wrong_z += !(std::abs(z - want) <= std::abs(want) / 50 + 1e-3);
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(wrong_scaled, 0);
  EXPECT_EQ(wrong_z, 0);
  // Nothing beyond the last row; and a row's bits do not depend on the others.
  for (int64_t rows : {most_rows, int64_t{1}, int64_t{6}, most_rows / 2 + 1}) {
    rows = std::max(rows, least_rows);
    const auto some = pair.run(rows);
    for (const auto& [got, want, width] :
         {std::tuple(&some.y, &all.y, c.hidden), std::tuple(&some.z, &all.z, c.columns)}) {
      EXPECT(std::equal(got->begin(), got->begin() + rows * width, want->begin()));
      EXPECT(std::all_of(got->begin() + rows * width, got->end(),
                         [](uint16_t bits) { return bits == 0xffff; }));
    }
  }
#endif
}

// As wide as a 1B's, so that there are slices for them; some end within the last slice.
void small_weights() {
  for (const int64_t rows : {7, 16, 30, 64}) {
    check_pair({.depth = 2048, .hidden = 2040, .columns = 3064, .is_gated = false}, rows);
    check_pair({.depth = 1408, .hidden = 2048, .columns = 8184, .is_gated = true}, rows);
  }
}

// As an 8B's: bands on both sides of the norm, or a gate by stripes behind it. Some end within the
// last band.
void large_weights() {
  constexpr int64_t kLeastRows = 33;
  for (const int64_t rows : {50, 64}) {
    check_pair({.depth = 4096, .hidden = 4104, .columns = 6136, .is_gated = false}, rows,
               kLeastRows);
    check_pair({.depth = 4136, .hidden = 4096, .columns = 8704, .is_gated = true}, rows,
               kLeastRows);
  }
}

}  // namespace
}  // namespace inflight

int main(int argc, char** argv) {
  using namespace inflight;
  return testing::run_cases({{"small_weights", small_weights}, {"large_weights", large_weights}},
                            argc, argv);
}
