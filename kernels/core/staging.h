// What the host prepares for one step of the device: small arrays side by side in page-locked
// memory with a twin on the device, so that a step is one copy. On the CPU both are the same memory
// and nothing is copied. One thread; whoever owns it knows when the device has read it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor_view.h"

namespace inflight {

class Staging {
 public:
  /// Room for `bytes`, each array rounded up to kAlignment. A step that needs more gets it, at the
  /// price of an allocation and a second copy; later steps then have it in one piece.
  Staging(Device device, size_t bytes);

  /// Room for a dense array: where the host writes it, and the view that ops read after upload().
  /// Both hold until reset().
  template <typename T>
  std::pair<T*, TensorView> place(DType dtype, std::initializer_list<int64_t> shape) {
    check_internal(sizeof(T) == size_of(dtype), "staging of ", name_of(dtype), " as ", sizeof(T),
                   " bytes");
    TensorView view = TensorView::dense(nullptr, dtype, shape, device_);
    const Room room = take(view.bytes());
    view.data = room.device;
    return {static_cast<T*>(room.host), view};
  }

  /// Gives all room back. The device must have read what was uploaded.
  void reset();
  /// Copies what is placed, in stream order; the host may not write to it any more.
  void upload(const Stream& stream) const;

  Device device() const { return device_; }
  size_t used_bytes() const;
  size_t bytes() const;  // on the host, and as much on a CUDA device

  static constexpr size_t kAlignment = 64;
  static constexpr size_t aligned(size_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

 private:
  struct Room {
    void* host;
    void* device;
  };
  struct Piece {
    Piece(Device device, size_t bytes);
    Buffer host;
    Buffer twin;  // CUDA only
    size_t used = 0;
  };
  Room take(size_t bytes);

  Device device_;
  std::vector<Piece> pieces_;  // one, but for the step that outgrew it
};

}  // namespace inflight
