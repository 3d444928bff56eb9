// Whether sequences fit the pools of layers that see a window, whatever they will still do: such a
// pool holds a bounded part of each sequence (kv_cache/window_geometry.h), so what is held now does
// not matter and none is ever preempted for it. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "backend/kv_cache/window_geometry.h"
#include "backend/scheduler/limits.h"

namespace inflight::scheduler {

struct WindowGroupView {
  kv_cache::Window window;
  int32_t num_blocks = 0;      // of the group's pool
  int32_t leaving_blocks = 0;  // of them held by sequences that run no more
};

class WindowClaims {
 public:
  /// At most kMaxGroups groups; the views outlive the claims.
  WindowClaims(std::span<const WindowGroupView> groups, const kv_cache::Geometry& geometry,
               const Limits& limits);

  /// Another sequence, of at most `max_total_len` tokens (prompt + output).
  void add(int32_t max_total_len);
  /// Whether all that were added fit, in all groups.
  bool fit() const;
  /// Raises invalid_argument naming the first group that they do not fit. For one sequence.
  void check_fit(int32_t max_total_len) const;

  static constexpr size_t kMaxGroups = 8;

 private:
  std::span<const WindowGroupView> groups_;
  kv_cache::Geometry geometry_;
  std::array<std::optional<kv_cache::WindowDemand>, kMaxGroups> demands_;
};

}  // namespace inflight::scheduler
