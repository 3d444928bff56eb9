#include "kernels/attention/attend_kernel.h"
