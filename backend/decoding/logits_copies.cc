#include "backend/decoding/logits_copies.h"

#include <cstring>

#include "kernels/core/check.h"

namespace inflight::decoding {

LogitsCopies::LogitsCopies(const DeviceContext& context, int vocab_size, int num_slots)
    : context_(context), vocab_size_(vocab_size), slots_(num_slots) {}

void LogitsCopies::launch(const TensorView& logits, std::span<const LogitsRows> rows, int slot) {
  Slot& to = slots_.at(slot);
  to.num_rows = 0;
  if (rows.empty()) return;
  size_t num_rows = 0;
  for (const LogitsRows& wanted : rows) {
    check_internal(
        wanted.first >= 0 && wanted.count >= 0 && wanted.first + wanted.count <= logits.shape[0],
        "rows [", wanted.first, ", ", wanted.first + wanted.count, ") of ", logits.shape[0],
        " rows of logits");
    num_rows += wanted.count;
  }
  const size_t row_bytes = vocab_size_ * sizeof(float);
  if (to.memory.bytes() < num_rows * row_bytes) {
    to.memory = Buffer();  // before there is more
    to.memory =
        context_.is_cuda() ? Buffer::pinned(num_rows * row_bytes) : Buffer(num_rows * row_bytes);
  }
  auto* next = static_cast<std::byte*>(to.memory.data());
  for (const LogitsRows& wanted : rows) {
    const auto* from = static_cast<const std::byte*>(logits.data) + wanted.first * row_bytes;
    const size_t bytes = wanted.count * row_bytes;
    if (context_.is_cuda()) {
      copy_async(next, from, bytes, context_.stream());
    } else {
      std::memcpy(next, from, bytes);
    }
    next += bytes;
  }
  to.num_rows = num_rows;
}

std::span<const float> LogitsCopies::rows(int slot) const {
  const Slot& from = slots_.at(slot);
  return {static_cast<const float*>(from.memory.data()), from.num_rows * vocab_size_};
}

}  // namespace inflight::decoding
