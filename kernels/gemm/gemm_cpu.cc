#include <algorithm>

#include "kernels/core/check.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/isa.h"
#include "kernels/core/cpu/parallel.h"
#include "kernels/gemm/blas.h"
#include "kernels/gemm/dot.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/select.h"

namespace inflight::cpu {
namespace {

// Rows that go by for one pass over the weights.
constexpr int64_t kPanelRows = 512;

template <typename Y, typename X>
INFLIGHT_VECTORIZED void convert(Y* y, const X* x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = from_float<Y>(to_float(x[i]));
}

template <typename Y, typename B>
INFLIGHT_VECTORIZED void convert_with_bias(Y* y, const float* x, const B* bias, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = from_float<Y>(x[i] + to_float(bias[i]));
}

/// How a product is done: which kernel on which pieces, and the scratch it needs.
struct Method {
  LinearKernel kernel;
  DotKernel dot;          // of kDot
  int64_t panel_rows;     // rows at a time
  int64_t chunk_columns;  // columns that a thread takes at a time
  bool converts_x;        // x is widened to float32 first
  bool converts_y;        // sums are kept aside and rounded to y's dtype
  bool converts_weight;   // kBlas with 16-bit weights

  size_t x_floats(int64_t depth) const { return converts_x ? panel_rows * depth : 0; }
  size_t sums_floats() const { return converts_y ? panel_rows * chunk_columns : 0; }
  size_t slab_floats(int64_t depth) const { return converts_weight ? chunk_columns * depth : 0; }
  size_t bytes(int64_t depth, int num_threads) const {
    return sizeof(float) * (x_floats(depth) + num_threads * (sums_floats() + slab_floats(depth)));
  }
};

Method choose(const LinearParams& params, int num_threads) {
  const Isa isa = best_isa();
  const LinearShape shape{params.x.shape[0], params.weight.shape[0], params.x.shape[1]};
  Method method{};
  method.kernel = select_linear(shape, isa);
  method.panel_rows = std::min(shape.rows, kPanelRows);
  method.converts_y = params.y.dtype != DType::kFloat32;
  // Four chunks to a thread balance; the widest still leave its weights in the second-level cache.
  const int64_t share = (shape.columns / (4 * num_threads) + 7) / 8 * 8;
  if (method.kernel == LinearKernel::kBlas) {
    method.chunk_columns = std::clamp<int64_t>(share, 32, 256);
    method.converts_x = params.x.dtype != DType::kFloat32;
    method.converts_weight = params.weight.dtype != DType::kFloat32;
  } else {
    method.chunk_columns = std::clamp<int64_t>(share, 8, 64);
    method.dot = dot_kernel(isa, params.x.dtype, params.weight.dtype);
    method.converts_x = method.dot == nullptr;
    if (method.converts_x) method.dot = dot_kernel(isa, DType::kFloat32, params.weight.dtype);
  }
  return method;
}

/// Adds the bias to the sums of columns [column, column + columns) and writes them to y.
void finish(const LinearParams& params, const float* sums, int64_t stride, int64_t row,
            int64_t rows, int64_t column, int64_t columns) {
  const int64_t width = params.y.shape[1];
  dispatch_floating(params.y.dtype, [&]<typename Y>(Y) {
    Y* y = params.y.as<Y>() + row * width + column;
    if (params.bias) {
      dispatch_floating(params.bias.dtype, [&]<typename B>(B) {
        const B* bias = params.bias.as<B>() + column;
        for (int64_t r = 0; r < rows; ++r)
          convert_with_bias(y + r * width, sums + r * stride, bias, columns);
      });
    } else if (static_cast<const void*>(sums) != y) {
      for (int64_t r = 0; r < rows; ++r) convert(y + r * width, sums + r * stride, columns);
    }
  });
}

void widen_x(float* to, const void* x, DType dtype, int64_t count, ThreadPool& pool) {
  dispatch_floating(dtype, [&]<typename X>(X) {
    pool.parallel_for(
        count,
        [&](int64_t begin, int64_t end, int) {
          convert(to + begin, static_cast<const X*>(x) + begin, end - begin);
        },
        grain_for(sizeof(float)));
  });
}

}  // namespace

size_t linear_workspace_bytes(const LinearParams& params, int num_threads) {
  // Fewer rows need no more: kDot's scratch for as many rows is never above kBlas's.
  return choose(params, num_threads).bytes(params.x.shape[1], num_threads);
}

void linear(const LinearParams& params, OpContext& context) {
  ThreadPool& pool = *context.pool;
  const int64_t num_rows = params.x.shape[0], depth = params.x.shape[1];
  const int64_t num_columns = params.weight.shape[0];
  const Method method = choose(params, pool.num_threads());
  check_internal(context.workspace.bytes >= method.bytes(depth, pool.num_threads()),
                 "linear: workspace of ", context.workspace.bytes, " bytes is too small");
  auto* x_panel = static_cast<float*>(context.workspace.data);
  float* thread_scratch = x_panel + method.x_floats(depth);

  for (int64_t row = 0; row < num_rows; row += method.panel_rows) {
    const int64_t rows = std::min(method.panel_rows, num_rows - row);
    const void* x = params.x.as<uint8_t>() + row * depth * size_of(params.x.dtype);
    if (method.converts_x) {
      widen_x(x_panel, x, params.x.dtype, rows * depth, pool);
      x = x_panel;
    }
    const auto do_chunk = [&](int64_t chunk, int thread) {
      const int64_t column = chunk * method.chunk_columns;
      const int64_t columns = std::min(method.chunk_columns, num_columns - column);
      float* scratch = thread_scratch + thread * (method.sums_floats() + method.slab_floats(depth));
      const DotArgs args{
          .x = x,
          .weight = params.weight.as<uint8_t>() + column * depth * size_of(params.weight.dtype),
          .out = method.converts_y ? scratch : params.y.as<float>() + row * num_columns + column,
          .out_stride = method.converts_y ? method.chunk_columns : num_columns,
          .rows = rows,
          .columns = columns,
          .depth = depth};
      if (method.kernel == LinearKernel::kBlas) {
        blas_product(args, params.weight.dtype, scratch + method.sums_floats());
      } else {
        method.dot(args);
      }
      finish(params, args.out, args.out_stride, row, rows, column, columns);
    };
    // Every eight rows cost about as much again as reading the weights.
    const int64_t chunk_cost =
        method.chunk_columns * depth * size_of(params.weight.dtype) * (1 + rows / 8);
    pool.parallel_for((num_columns + method.chunk_columns - 1) / method.chunk_columns,
                      [&](int64_t begin, int64_t end, int thread) {
                        for (int64_t chunk = begin; chunk < end; ++chunk) do_chunk(chunk, thread);
                      },
                      grain_for(chunk_cost));
  }
}

}  // namespace inflight::cpu
