// The pieces of memory in which the server holds an input tensor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "backend/triton/triton_c_api.h"
#include "backend/triton/triton_error.h"
#include "kernels/core/check.h"

namespace inflight::triton {

/// Calls use(const uint8_t* data, size_t num_bytes) for each that is not empty, in order. Raises
/// Error if one lies on a GPU; `name` is for its message.
template <typename Use>
void for_each_buffer(TRITONBACKEND_Input* input, uint32_t num_buffers, std::string_view name,
                     const Use& use) {
  for (uint32_t i = 0; i < num_buffers; ++i) {
    const void* buffer = nullptr;
    uint64_t num_bytes = 0;
    TRITONSERVER_MemoryType memory = TRITONSERVER_MEMORY_CPU;
    int64_t memory_id = 0;
    check_triton(TRITONBACKEND_InputBuffer(input, i, &buffer, &num_bytes, &memory, &memory_id),
                 "InputBuffer");
    check(memory != TRITONSERVER_MEMORY_GPU, "tensor ", name,
          " lies in GPU memory, expected host memory");
    if (num_bytes > 0) use(static_cast<const uint8_t*>(buffer), static_cast<size_t>(num_bytes));
  }
}

}  // namespace inflight::triton
