// Brings rows of logits to the host, as the model made them. Owned by a rank worker and called on
// its thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/core/buffer.h"
#include "kernels/core/device.h"
#include "kernels/core/tensor_view.h"

namespace inflight::decoding {

/// [first, first + count) of a step's logits [B, V].
struct LogitsRows {
  int32_t first = 0;
  int32_t count = 0;
};

/// A slot holds what one step in flight copies. Takes no memory before somebody wants logits; then
/// as much as the largest step wanted.
class LogitsCopies {
 public:
  /// `context` outlives it.
  LogitsCopies(const DeviceContext& context, int vocab_size, int num_slots);

  /// Enqueues the copies, ahead of whatever changes the logits in place; done on return on the CPU.
  /// `logits` is [B, V] float32, rows dense.
  void launch(const TensorView& logits, std::span<const LogitsRows> rows, int slot);
  /// The rows wanted, one after another: [N, V]. Once the step is done and until the slot's next.
  std::span<const float> rows(int slot) const;

 private:
  struct Slot {
    Buffer memory;
    size_t num_rows = 0;
  };
  const DeviceContext& context_;
  const size_t vocab_size_;
  std::vector<Slot> slots_;
};

}  // namespace inflight::decoding
