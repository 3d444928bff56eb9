#include "kernels/core/buffer.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>

#include "kernels/core/check.h"
#include "kernels/core/device_memory.h"

namespace inflight {
namespace {

constexpr size_t kAlignment = 64;
// From here on straight from the system, so that freeing returns the pages whatever malloc keeps.
constexpr size_t kMapFrom = size_t{256} << 10;
constexpr size_t kHugePage = size_t{2} << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Large ones are whole large pages: the system gives none for a part of one.
size_t mapped_bytes(size_t bytes) { return bytes < kHugePage ? bytes : round_up(bytes, kHugePage); }

void* map_host(size_t bytes) {
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}

void* allocate_host(size_t bytes) {
  if (bytes < kMapFrom) return std::aligned_alloc(kAlignment, round_up(bytes, kAlignment));
  if (bytes < kHugePage) return map_host(bytes);
  // More than that, of which what lies around the whole pages goes back.
  const size_t size = mapped_bytes(bytes);
  void* const mapped = map_host(size + kHugePage);
  if (mapped == nullptr) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t data = round_up(begin, kHugePage);
  if (data > begin) munmap(mapped, data - begin);
  if (data < begin + kHugePage)
    munmap(reinterpret_cast<void*>(data + size), begin + kHugePage - data);
  madvise(reinterpret_cast<void*>(data), size, MADV_HUGEPAGE);
  return reinterpret_cast<void*>(data);
}

}  // namespace

Buffer::Buffer(size_t bytes, Device device) : bytes_(bytes), device_(device) {
  if (bytes == 0) return;
  if (device.type == DeviceType::kCuda) {
    data_ = allocate_device(bytes, device);
    return;
  }
  data_ = allocate_host(bytes);
  if (data_ == nullptr)
    throw Error(ErrorCode::kResourceExhausted,
                concat("cannot allocate ", bytes, " bytes of host memory"));
}

Buffer Buffer::pinned(size_t bytes) {
  void* data = bytes == 0 ? nullptr : allocate_pinned(bytes);
  if (data == nullptr) return Buffer(bytes);
  Buffer buffer;
  buffer.data_ = data;
  buffer.bytes_ = bytes;
  buffer.pinned_ = true;
  return buffer;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (device_.type == DeviceType::kCuda) {
    free_device(data_, device_);
  } else if (pinned_) {
    free_pinned(data_);
  } else if (bytes_ < kMapFrom) {
    std::free(data_);
  } else {
    munmap(data_, mapped_bytes(bytes_));
  }
}

}  // namespace inflight
