// Sends an op to the implementation of its device: the one place that knows whether this build has
// CUDA. An op declares `<op>` in namespace inflight::cpu and, with CUDA, in inflight::cuda.
#pragma once

#include "kernels/core/error.h"
#include "kernels/core/op.h"

#ifdef INFLIGHT_CUDA
#define INFLIGHT_DISPATCH(op, params, context)                                        \
  ((context).device.type == ::inflight::DeviceType::kCuda ? cuda::op(params, context) \
                                                          : cpu::op(params, context))
#else
#define INFLIGHT_DISPATCH(op, params, context)                                       \
  ((context).device.type == ::inflight::DeviceType::kCuda                            \
       ? throw ::inflight::Error(::inflight::ErrorCode::kUnsupported,                \
                                 #op ": this build has no CUDA; use the cpu device") \
       : cpu::op(params, context))
#endif
