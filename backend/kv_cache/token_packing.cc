#include "backend/kv_cache/token_packing.h"

#include <array>
#include <cstddef>
#include <utility>

namespace inflight::kv_cache {
namespace {

/// All shifts are constants once the loop is unrolled.
template <int kBits, int kCount>
uint32_t pack_group(const int32_t* ids, uint32_t* out) {
  uint64_t pending = 0;
  uint32_t all = 0;
  int num_pending = 0;
#pragma GCC unroll 32
  for (int i = 0; i < kCount; ++i) {
    const auto id = static_cast<uint32_t>(ids[i]);
    all |= id;
    pending |= uint64_t{id} << num_pending;
    num_pending += kBits;
    if (num_pending >= 32) {
      *out++ = static_cast<uint32_t>(pending);
      pending >>= 32;
      num_pending -= 32;
    }
  }
  return all;
}

}  // namespace

TokenPacking::PackGroup TokenPacking::group_packer(int32_t bits) {
  // Of an id have at least 1 and at most 31.
  static constexpr auto kPackers = []<size_t... kIndex>(std::index_sequence<kIndex...>) {
    return std::array<PackGroup, sizeof...(kIndex)>{pack_group<kIndex + 1, kGroup>...};
  }(std::make_index_sequence<31>());
  return kPackers[bits - 1];
}

}  // namespace inflight::kv_cache
