#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention/attend.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/math.h"

#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#define INFLIGHT_ISA_LEVEL 2
#include "kernels/attention/attend_kernel.h"

#endif
