#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "kernels/core/cpu/convert.h"
#include "kernels/gemm/dot.h"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#define INFLIGHT_ISA_LEVEL 2
#include "kernels/gemm/dot_kernel.h"

#endif
