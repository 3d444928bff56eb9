#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu/convert.h"
#include "kernels/gemm/dot.h"

#pragma GCC target("avx2,fma,f16c")
#define INFLIGHT_ISA_LEVEL 1
#include "kernels/gemm/dot_kernel.h"

#endif
