#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/attention/attend.h"
#include "kernels/core/cpu/convert.h"
#include "kernels/core/cpu/math.h"

#pragma GCC target("avx2,fma,f16c")
#define INFLIGHT_ISA_LEVEL 1
#include "kernels/attention/attend_kernel.h"

#endif
