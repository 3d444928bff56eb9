// Where the generator lay before; include kernels/core/philox.h.
#pragma once

#include "kernels/core/philox.h"
