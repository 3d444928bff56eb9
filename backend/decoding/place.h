// Puts arrays of the sampling ops into a step's staging.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "kernels/core/staging.h"

namespace inflight::decoding {

/// Room for `length` elements of T; returns where the host writes them.
template <typename T>
T* place(Staging& staging, TensorView& view, size_t length) {
  constexpr DType kType = std::is_same_v<T, float>     ? DType::kFloat32
                          : std::is_same_v<T, int64_t> ? DType::kInt64
                                                       : DType::kInt32;
  const auto [host, device_view] = staging.place<T>(kType, {static_cast<int64_t>(length)});
  view = device_view;
  return host;
}

template <typename T>
void place_all(Staging& staging, TensorView& view, const std::vector<T>& values) {
  std::ranges::copy(values, place<T>(staging, view, values.size()));
}

}  // namespace inflight::decoding
