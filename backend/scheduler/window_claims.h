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
  /// At most kMaxGroups groups.
  WindowClaims(std::span<const WindowGroupView> groups, const kv_cache::Geometry& geometry,
               const Limits& limits);

  /// `count` more sequences (fewer, if it is negative) of at most `max_total_len` tokens (prompt +
  /// output).
  void add(int32_t max_total_len, int64_t count = 1);
  /// Whether all that were added fit. `groups`, here and below, are those of the construction, as
  /// they are now.
  bool fit(std::span<const WindowGroupView> groups) const;
  /// Raises invalid_argument naming the first group that they do not fit. For one sequence.
  void check_fit(std::span<const WindowGroupView> groups, int32_t max_total_len) const;

  bool operator==(const WindowClaims&) const = default;

  static constexpr size_t kMaxGroups = 8;

 private:
  kv_cache::Geometry geometry_;
  size_t num_groups_;
  std::array<std::optional<kv_cache::WindowDemand>, kMaxGroups> demands_;
};

}  // namespace inflight::scheduler
