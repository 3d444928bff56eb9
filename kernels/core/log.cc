#include "kernels/core/log.h"

#include <cstdio>
#include <memory>
#include <mutex>

namespace inflight {
namespace {

void to_stderr(LogLevel level, std::string_view message) {
  if (level < LogLevel::kWarning) return;
  std::fprintf(stderr, "inflight: %s: %.*s\n", level == LogLevel::kError ? "error" : "warning",
               static_cast<int>(message.size()), message.data());
}

std::mutex sink_mutex;
// Held by those who are logging, so that replacing the sink does not take it from under them.
std::shared_ptr<const LogSink> current_sink = std::make_shared<const LogSink>(to_stderr);

}  // namespace

void set_log_sink(LogSink sink) {
  auto next = std::make_shared<const LogSink>(sink ? std::move(sink) : LogSink(to_stderr));
  std::lock_guard lock(sink_mutex);
  current_sink.swap(next);
}

void log_message(LogLevel level, std::string_view message) {
  std::shared_ptr<const LogSink> sink;
  {
    std::lock_guard lock(sink_mutex);
    sink = current_sink;
  }
  (*sink)(level, message);
}

}  // namespace inflight
