// Memory in the system's large pages for what comes in small pieces and is looked at by the
// thousand, say behind a std::pmr::unsynchronized_pool_resource: close together, so that the
// processor need not look into page tables for each piece. One thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory_resource>
#include <vector>

#include "kernels/core/buffer.h"

namespace inflight {

class LargePages : public std::pmr::memory_resource {
 public:
  /// Of the pool before it, which must keep all that shares a page here: by default it keeps
  /// pieces of up to 4 KiB, and others would be new each time.
  static constexpr std::pmr::pool_options kPool = {.max_blocks_per_chunk = 0,
                                                   .largest_required_pool_block = size_t{2} << 20};

  size_t num_buffers() const { return buffers_.size(); }

 private:
  static constexpr size_t kPage = size_t{2} << 20;

  void* do_allocate(size_t bytes, size_t alignment) override {
    if (bytes > kPage) return buffers_.emplace_back(bytes).data();
    used_ = (used_ + alignment - 1) / alignment * alignment;
    if (used_ + bytes > kPage) {
      page_ = static_cast<std::byte*>(buffers_.emplace_back(kPage).data());
      used_ = 0;
    }
    used_ += bytes;
    return page_ + (used_ - bytes);
  }
  /// What shares a page stays until the end.
  void do_deallocate(void* data, size_t bytes, size_t /*alignment*/) override {
    if (bytes <= kPage) return;
    std::erase_if(buffers_, [data](const Buffer& buffer) { return buffer.data() == data; });
  }
  bool do_is_equal(const memory_resource& other) const noexcept override { return this == &other; }

  std::vector<Buffer> buffers_;
  std::byte* page_ = nullptr;
  size_t used_ = kPage;  // of page_
};

}  // namespace inflight
