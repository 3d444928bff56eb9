// The linears of a layer on a GPU, for tests of what does several of them at once.
#pragma once

#include <bit>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/fused_linear/fused_linear.h"
#include "tests/cpp/gpu_matrix.h"
#include "tests/cpp/testing.h"

namespace inflight::testing {

struct LayerShape {
  int64_t hidden, width, qkv;
};

/// Random bfloat16 around zero, on the GPU.
struct Matrix {
  Buffer memory;
  TensorView view;

  Matrix(int64_t rows, int64_t columns, float scale, const Stream& stream)
      : memory(rows * columns * 2, kGpu),
        view(TensorView::dense(memory.data(), DType::kBFloat16, {rows, columns}, kGpu)) {
    thread_local Draws draws;
    std::vector<uint16_t> bits;
    for (int64_t i = 0; i < rows * columns; ++i)
      bits.push_back(std::bit_cast<uint32_t>(draws.uniform() * scale) >> 16);
    copy_async(memory.data(), bits.data(), view.bytes(), stream);
    stream.synchronize();
  }
  std::vector<uint16_t> download(const Stream& stream) const {
    std::vector<uint16_t> bits(view.num_elements());
    copy_async(bits.data(), memory.data(), view.bytes(), stream);
    stream.synchronize();
    return bits;
  }
};

/// What follows attention in a layer, up to the next layer's attention.
struct Layer {
  DeviceContext device{kGpu, nullptr};
  const Stream& stream = device.stream();
  LayerShape shape;
  int64_t rows;
  Matrix output, gate_up, down, qkv, norm, attended, residual;
  std::vector<Matrix> y;
  TensorView norm_weight, none;
  Buffer workspace{128 << 20, kGpu};
  OpContext context = device.op_context();
  std::vector<FusedLinearParams> links;

  Layer(const LayerShape& shape, int64_t rows)
      : shape(shape),
        rows(rows),
        output(weight(shape.hidden, shape.hidden)),
        gate_up(weight(2 * shape.width, shape.hidden)),
        down(weight(shape.hidden, shape.width)),
        qkv(weight(shape.qkv, shape.hidden)),
        norm(1, shape.hidden, 1, stream),
        attended(rows_of(shape.hidden)),
        residual(rows_of(shape.hidden)),
        norm_weight(TensorView::dense(norm.memory.data(), DType::kBFloat16, {shape.hidden}, kGpu)) {
    for (const int64_t columns : {shape.hidden, shape.width, shape.hidden, shape.qkv})
      y.push_back(rows_of(columns));
    context.workspace = {workspace.data(), workspace.bytes()};
    context.grids_may_wait = true;
    links.push_back(link(attended, output, none, residual.view, y[0], false));
    links.push_back(link(y[0], gate_up, norm_weight, none, y[1], true));
    links.push_back(link(y[1], down, none, y[0].view, y[2], false));
    links.push_back(link(y[2], qkv, norm_weight, none, y[3], false));
  }
  Matrix weight(int64_t n, int64_t k) const { return Matrix(n, k, 0.07f, stream); }
  Matrix rows_of(int64_t columns) const { return Matrix(rows, columns, 2, stream); }
  FusedLinearParams link(const Matrix& x, const Matrix& w, const TensorView& g,
                         const TensorView& add, const Matrix& to, bool is_gated) const {
    return {.x = x.view,
            .weight = w.view,
            .bias = none,
            .norm_weight = g,
            .residual = add,
            .y = to.view,
            .epsilon = 1e-5f,
            .is_gated = is_gated};
  }
  std::vector<std::vector<uint16_t>> download() const {
    std::vector<std::vector<uint16_t>> all;
    for (const Matrix& matrix : y) all.push_back(matrix.download(stream));
    return all;
  }
  std::vector<std::vector<uint16_t>> one_by_one() {
    for (const FusedLinearParams& params : links) fused_linear(params, context);
    return download();
  }
  void poison(size_t first, size_t count) const {
    for (size_t i = first; i < first + count; ++i)
      fill_async(links[i].y.data, 0xff, links[i].y.bytes(), stream);
  }
  void check_counters() const {
    std::vector<uint32_t> counters(kNumCounters);
    copy_async(counters.data(), context.counters, counters.size() * sizeof(uint32_t), stream);
    stream.synchronize();
    for (const uint32_t counter : counters) EXPECT_EQ(counter, 0u);
  }
};

}  // namespace inflight::testing
