// One line of log at a time to the sink that whoever starts the process gives (Triton's logger, the
// bindings, a test). Any thread may log. Without a sink, warnings and errors go to stderr.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "kernels/core/error.h"

namespace inflight {

enum class LogLevel { kVerbose, kInfo, kWarning, kError };

using LogSink = std::function<void(LogLevel level, std::string_view message)>;

/// Replaces the sink; an empty one restores stderr. The sink may be called from several threads at
/// once and must not raise.
void set_log_sink(LogSink sink);

void log_message(LogLevel level, std::string_view message);

/// Joins the parts with operator<<: `log(LogLevel::kInfo, "loaded ", path)`.
template <typename... Parts>
void log(LogLevel level, const Parts&... parts) {
  log_message(level, concat(parts...));
}

}  // namespace inflight
