#include "kernels/gemm/dot_kernel.h"
