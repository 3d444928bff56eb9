#include "kernels/core/buffer.h"

#include <sys/mman.h>

#include <cstdlib>

#include "kernels/core/check.h"
#include "kernels/core/device_memory.h"

namespace inflight {
namespace {

constexpr size_t kAlignment = 64;
// From here on straight from the system, so that freeing returns the pages whatever malloc keeps.
constexpr size_t kMapFrom = size_t{256} << 10;
constexpr size_t kHugePage = size_t{2} << 20;

void* allocate_host(size_t bytes) {
  if (bytes < kMapFrom)
    return std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return nullptr;
  if (bytes >= 2 * kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
  return data;
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
    munmap(data_, bytes_);
  }
}

}  // namespace inflight
