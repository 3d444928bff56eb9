// Device copies of host arrays, for running ops on a GPU from numpy. Arrays that overlap on the
// host overlap alike on the device, so that in-place calls stay what they are.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor_view.h"

namespace inflight::bindings {

class DeviceArrays {
 public:
  /// Registers a host view, whose strides are not negative; `place` will point it at the device.
  void add(TensorView& view, bool writeable) {
    int64_t last = 0;
    for (int i = 0; i < view.rank; ++i) last += (view.shape[i] - 1) * view.strides[i];
    const int64_t bytes = view.num_elements() == 0 ? 0 : (last + 1) * size_of(view.dtype);
    auto* begin = static_cast<std::byte*>(view.data);
    spans_.push_back({begin, begin + bytes, writeable, {}});
    views_.push_back(&view);
  }

  /// Allocates the copies and turns the views to them.
  void place(const Stream& stream) {
    std::sort(spans_.begin(), spans_.end(), [](const Span& a, const Span& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
    });
    std::vector<Span> merged;
    for (Span& span : spans_) {
      if (!merged.empty() &&
          (span.begin < merged.back().end || span.begin == merged.back().begin)) {
        merged.back().end = std::max(merged.back().end, span.end);
        merged.back().writeable |= span.writeable;
      } else {
        merged.push_back(std::move(span));
      }
    }
    spans_ = std::move(merged);
    for (Span& span : spans_) span.copy = Buffer(span.bytes(), stream.device());
    for (TensorView* view : views_) {
      auto* data = static_cast<std::byte*>(view->data);
      for (const Span& span : spans_) {
        if (data < span.begin || (data >= span.end && data != span.begin)) continue;
        view->data = static_cast<std::byte*>(span.copy.data()) + (data - span.begin);
        break;
      }
      view->device = stream.device();
    }
    copy_in(stream);
  }

  void copy_in(const Stream& stream) const {
    for (const Span& span : spans_) copy_async(span.copy.data(), span.begin, span.bytes(), stream);
  }
  void copy_out(const Stream& stream) const {
    for (const Span& span : spans_) {
      if (span.writeable) copy_async(span.begin, span.copy.data(), span.bytes(), stream);
    }
  }

 private:
  struct Span {
    std::byte* begin;
    std::byte* end;
    bool writeable;
    Buffer copy;
    size_t bytes() const { return static_cast<size_t>(end - begin); }
  };
  std::vector<Span> spans_;
  std::vector<TensorView*> views_;
};

}  // namespace inflight::bindings
