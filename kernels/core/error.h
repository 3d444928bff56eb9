// The one exception type of the project. Caught in three places only: the Triton boundary, the
// pybind11 translator and the engine loop. A message says who, what was expected, what came.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace inflight {

enum class ErrorCode {
  kInvalidArgument,    // the caller's input is wrong; the message names value and limit
  kUnsupported,        // legal input that this build or engine cannot serve
  kResourceExhausted,  // a queue or a pool is full; trying later may work
  kNotFound,
  kCancelled,
  kTimedOut,     // a deadline has passed
  kUnavailable,  // what would serve it is gone; another server may
  kInternal,     // our own fault
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

/// Joins the arguments with operator<<, for messages: `concat("head_size ", n, " > ", limit)`.
template <typename... Parts>
std::string concat(Parts&&... parts) {
  std::ostringstream out;
  (out << ... << std::forward<Parts>(parts));
  return out.str();
}

}  // namespace inflight
