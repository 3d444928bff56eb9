#include "kernels/core/check_tensor.h"

#include "kernels/core/check.h"

namespace inflight {
namespace {

template <typename Extents>
std::string extents_string(const Extents& begin, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) {
    if (i > 0) text += ", ";
    text += begin[i] < 0 ? "any" : std::to_string(begin[i]);
  }
  return text + "]";
}

}  // namespace

std::string shape_string(const TensorView& view) {
  return extents_string(view.shape.data(), view.rank);
}

void check_shape(std::string_view what, const TensorView& view,
                 std::initializer_list<int64_t> shape) {
  bool fits = view.rank == static_cast<int>(shape.size());
  for (int i = 0; fits && i < view.rank; ++i)
    fits = shape.begin()[i] < 0 || shape.begin()[i] == view.shape[i];
  if (!fits) [[unlikely]]
    check(false, what, " must be ", extents_string(shape.begin(), shape.size()), ", got ",
          shape_string(view));
  check(view.data != nullptr || view.num_elements() == 0, what, " has no memory");
}

void check_dense(std::string_view what, const TensorView& view,
                 std::initializer_list<int64_t> shape) {
  check_shape(what, view, shape);
  check(view.is_dense(), what, " must be dense row-major");
}

void check_blocks_dense(std::string_view what, const TensorView& view) {
  int64_t stride = 1;
  for (int i = view.rank - 1; i > 0; --i) {
    check(view.strides[i] == stride, what, " must be dense within a block, but axis ", i,
          " has stride ", view.strides[i], " instead of ", stride);
    stride *= view.shape[i];
  }
  check(view.strides[0] >= stride, what, " has blocks of ", stride, " elements only ",
        view.strides[0], " apart");
}

void check_dtype(std::string_view what, const TensorView& view, DType dtype) {
  check(view.dtype == dtype, what, " must be ", name_of(dtype), ", got ", name_of(view.dtype));
}

void check_floating(std::string_view what, const TensorView& view) {
  check(is_floating(view.dtype), what, " must be float32, float16 or bfloat16, got ",
        name_of(view.dtype));
}

}  // namespace inflight
