// The inner kernels of the CPU ops in every instruction set of this machine, and OpenBLAS's
// product, against float64: the ops themselves only ever run the best of them.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/attention/attend.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/gemm/blas.h"
#include "kernels/gemm/dot.h"
#include "kernels/gemm/select.h"

namespace inflight::cpu {
namespace {

std::vector<Isa> isas() {
  std::vector<Isa> all;
  for (Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16}) {
    if (isa <= best_isa()) all.push_back(isa);
  }
  return all;
}

void require(bool condition, const char* what, Isa isa, DType dtype, long a, long b, long c) {
  if (condition) return;
  std::printf("%s failed: %s, %s, %ld %ld %ld\n", what, name_of(isa).data(), name_of(dtype).data(),
              a, b, c);
  std::exit(1);
}

std::mt19937 random_bits(0);

template <typename T>
std::vector<T> random(int64_t count, float scale) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<T> values(count);
  for (T& value : values) value = from_float<T>(normal(random_bits));
  return values;
}

template <typename X, typename W>
void check_product(DType x_dtype, DType w_dtype, int64_t rows, int64_t columns, int64_t depth) {
  const auto x = random<X>(rows * depth, 1.0f);
  const auto weight = random<W>(columns * depth, 1.0f / std::sqrt(static_cast<float>(depth)));
  const int64_t stride = columns + 3;
  const auto check_result = [&](const std::vector<float>& out, const char* what, Isa isa) {
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = 0; n < columns; ++n) {
        double want = 0;
        for (int64_t k = 0; k < depth; ++k)
          want += double{to_float(x[m * depth + k])} * to_float(weight[n * depth + k]);
        require(std::abs(out[m * stride + n] - want) <= 1e-5 * (1 + std::abs(want)), what, isa,
                w_dtype, rows, columns, depth);
      }
      for (int64_t n = columns; n < stride; ++n)
        require(out[m * stride + n] == -7.0f, "guard", isa, w_dtype, rows, columns, depth);
    }
  };
  DotArgs args{x.data(), weight.data(), nullptr, stride, rows, columns, depth};
  for (Isa isa : isas()) {
    const DotKernel kernel = dot_kernel(isa, x_dtype, w_dtype);
    if (kernel == nullptr) continue;
    std::vector<float> out(rows * stride, -7.0f);
    args.out = out.data();
    kernel(args);
    check_result(out, "dot", isa);
  }
  if (x_dtype == DType::kFloat32) {
    std::vector<float> out(rows * stride, -7.0f), slab(columns * depth);
    args.out = out.data();
    blas_product(args, w_dtype, slab.data());
    check_result(out, "blas", Isa::kBaseline);
  }
}

void check_products() {
  for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 13, 200}) {
    for (int64_t columns : {1, 4, 7, 8, 19}) {
      for (int64_t depth : {1, 7, 16, 33, 130, 1100, 2100}) {
        if (rows == 200 && depth > 1100) continue;
        check_product<float, float>(DType::kFloat32, DType::kFloat32, rows, columns, depth);
        check_product<float, Float16>(DType::kFloat32, DType::kFloat16, rows, columns, depth);
        check_product<float, BFloat16>(DType::kFloat32, DType::kBFloat16, rows, columns, depth);
        check_product<BFloat16, BFloat16>(DType::kBFloat16, DType::kBFloat16, rows, columns, depth);
      }
    }
  }
}

/// One block holds all keys, then all values.
template <typename Cache>
void check_attend(DType dtype, int64_t rows, int64_t keys, int64_t size) {
  const int64_t stride = (size + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  const auto cache = random<Cache>(2 * keys * size, 1.0f);
  const auto dense = random<float>(rows * size, 1.0f);
  std::vector<float> queries(rows * stride, 0.0f);
  for (int64_t r = 0; r < rows; ++r)
    std::copy_n(dense.data() + r * size, size, queries.data() + r * stride);
  std::vector<int32_t> visible(rows);
  for (int64_t r = 0; r < rows; ++r) visible[r] = static_cast<int32_t>(keys - rows + r + 1);
  const int32_t table = 0;
  for (Isa isa : isas()) {
    std::vector<float> scores(rows * (kKeyTile + 1)), maxima(rows), sums(rows), out(rows * stride);
    attend_kernel(isa, dtype)({.rows = rows,
                               .head_size = size,
                               .stride = stride,
                               .queries = queries.data(),
                               .visible = visible.data(),
                               .scale = 0.3f,
                               .cache = reinterpret_cast<const uint8_t*>(cache.data()),
                               .block_bytes = 0,
                               .value_bytes = keys * size * static_cast<int64_t>(sizeof(Cache)),
                               .tokens_per_block = keys,
                               .block_table = &table,
                               .begin = 0,
                               .end = keys,
                               .scores = scores.data(),
                               .maxima = maxima.data(),
                               .sums = sums.data(),
                               .outputs = out.data()});
    for (int64_t r = 0; r < rows; ++r) {
      std::vector<double> weights(visible[r]);
      for (int64_t key = 0; key < visible[r]; ++key) {
        double score = 0;
        for (int64_t d = 0; d < size; ++d)
          score += double{queries[r * stride + d]} * to_float(cache[key * size + d]);
        weights[key] = std::exp(score * 0.3f - maxima[r]);
      }
      const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
      require(std::abs(sums[r] - total) <= 1e-4 * total, "sums", isa, dtype, rows, keys, size);
      for (int64_t d = 0; d < size; ++d) {
        double want = 0;
        for (int64_t key = 0; key < visible[r]; ++key)
          want += weights[key] * to_float(cache[(keys + key) * size + d]);
        require(std::abs(out[r * stride + d] - want) <= 1e-5 * (1 + total), "attend", isa, dtype,
                rows, keys, size);
      }
    }
  }
}

void check_selection() {
  for (int64_t rows : {1, 11, 12, 4096}) {
    for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16})
      require(select_linear({rows, 64, 64}, isa) == LinearKernel::kDot, "selection", isa,
              DType::kFloat32, rows, 64, 64);
    const auto want = rows < 12 ? LinearKernel::kDot : LinearKernel::kBlas;
    require(select_linear({rows, 64, 64}, Isa::kBaseline) == want, "selection", Isa::kBaseline,
            DType::kFloat32, rows, 64, 64);
  }
}

}  // namespace
}  // namespace inflight::cpu

int main() {
  using namespace inflight;
  cpu::check_products();
  for (int64_t rows : {1, 2, 3, 4, 5, 6, 7, 14}) {
    for (int64_t keys : {14, 17, 64, 65, 200, 512}) {
      for (int64_t size : {1, 5, 16, 20, 64, 100, 128}) {
        cpu::check_attend<float>(DType::kFloat32, rows, keys, size);
        cpu::check_attend<cpu::Float16>(DType::kFloat16, rows, keys, size);
        cpu::check_attend<cpu::BFloat16>(DType::kBFloat16, rows, keys, size);
      }
    }
  }
  cpu::check_selection();
  std::printf("best instruction set here: %s\n", cpu::name_of(cpu::best_isa()).data());
}
