// What every entry point of a build without CUDA raises.
#pragma once

#include "kernels/core/error.h"

namespace inflight {

[[noreturn]] inline void no_cuda() {
  throw Error(ErrorCode::kUnsupported, "this build has no CUDA; use the cpu device");
}

}  // namespace inflight
