// Preconditions that raise Error. Every op lists its own as one block of lines at its top, so that
// the list is the documentation.
#pragma once

#include "kernels/core/error.h"

namespace inflight {

/// Raises invalid_argument with the joined `parts` unless `condition` holds.
template <typename... Parts>
inline void check(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    throw Error(ErrorCode::kInvalidArgument, concat(parts...));
}

/// As `check`, for our own mistakes: raises internal.
template <typename... Parts>
inline void check_internal(bool condition, const Parts&... parts) {
  if (!condition) [[unlikely]]
    throw Error(ErrorCode::kInternal, concat(parts...));
}

}  // namespace inflight
