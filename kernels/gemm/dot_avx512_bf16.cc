#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu/convert.h"
#include "kernels/gemm/dot.h"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,fma,f16c")
#define INFLIGHT_ISA_LEVEL 3
#include "kernels/gemm/dot_kernel.h"

#endif
