// Which product serves a linear on the CPU: a pure choice, testable without running either.
#pragma once

#include <cstdint>

#include "kernels/core/cpu/isa.h"
#include "kernels/core/dtype.h"

namespace inflight::cpu {

enum class LinearKernel : uint8_t {
  kDot,   // ours: weights as they are; a row's bits do not depend on the other rows
  kBlas,  // OpenBLAS on float32, 16-bit weights converted slab by slab; its bits may depend on them
};

struct LinearShape {
  int64_t rows;
  int64_t columns;
  int64_t depth;
};

LinearKernel select_linear(const LinearShape& shape, Isa isa);

}  // namespace inflight::cpu
