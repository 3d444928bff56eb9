// What Buffer asks of the CUDA runtime. For buffer.cc alone.
#pragma once

#include <cstddef>

#include "kernels/core/tensor_view.h"

namespace inflight {

/// Raises resource_exhausted if there is not enough memory, unsupported without CUDA.
void* allocate_device(size_t bytes, Device device);
void free_device(void* data, Device device) noexcept;
/// Null without a CUDA device.
void* allocate_pinned(size_t bytes);
void free_pinned(void* data) noexcept;

}  // namespace inflight
