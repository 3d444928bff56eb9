// Preconditions on tensor views, with messages such as "rms_norm: y must be [3, 64], got [3, 65]".
// `what` names op and tensor.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "kernels/core/tensor_view.h"

namespace inflight {

/// "[3, 64]".
std::string shape_string(const TensorView& view);

/// Present (or empty), of this shape, dense row-major. An extent of -1 may be any.
void check_dense(std::string_view what, const TensorView& view,
                 std::initializer_list<int64_t> shape);
/// As check_dense, but memory may be strided.
void check_shape(std::string_view what, const TensorView& view,
                 std::initializer_list<int64_t> shape);
/// A view whose first axis alone may have any stride: the paged cache of one layer.
void check_blocks_dense(std::string_view what, const TensorView& view);
void check_dtype(std::string_view what, const TensorView& view, DType dtype);
/// float32, float16 or bfloat16.
void check_floating(std::string_view what, const TensorView& view);

}  // namespace inflight
