#include "kernels/core/staging.h"

#include <algorithm>

namespace inflight {

Staging::Piece::Piece(Device device, size_t bytes) {
  if (device.type == DeviceType::kCuda) {
    host = Buffer::pinned(bytes);
    twin = Buffer(bytes, device);
  } else {
    host = Buffer(bytes);
  }
}

Staging::Staging(Device device, size_t bytes) : device_(device) {
  pieces_.emplace_back(device, std::max(aligned(bytes), kAlignment));
}

Staging::Room Staging::take(size_t bytes) {
  const size_t size = aligned(bytes);
  if (pieces_.back().used + size > pieces_.back().host.bytes()) {
    pieces_.emplace_back(device_, std::max(size, this->bytes()));
  }
  Piece& piece = pieces_.back();
  auto* host = static_cast<std::byte*>(piece.host.data()) + piece.used;
  auto* device =
      piece.twin.data() == nullptr ? host : static_cast<std::byte*>(piece.twin.data()) + piece.used;
  piece.used += size;
  return {host, device};
}

void Staging::reset() {
  if (pieces_.size() > 1) {
    Piece whole(device_, bytes());  // first: if there is no memory for it, all stays as it is
    pieces_.clear();
    pieces_.push_back(std::move(whole));
  }
  pieces_.back().used = 0;
}

void Staging::upload(const Stream& stream) const {
  for (const Piece& piece : pieces_) {
    if (piece.twin.data() == nullptr) continue;
    copy_async(piece.twin.data(), piece.host.data(), piece.used, stream);
  }
}

size_t Staging::used_bytes() const {
  size_t sum = 0;
  for (const Piece& piece : pieces_) sum += piece.used;
  return sum;
}

size_t Staging::bytes() const {
  size_t sum = 0;
  for (const Piece& piece : pieces_) sum += piece.host.bytes();
  return sum;
}

}  // namespace inflight
