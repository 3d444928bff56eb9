// The Triton boundary for errors: our Error becomes a TRITONSERVER_Error and the other way round.
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "backend/triton/triton_c_api.h"
#include "kernels/core/error.h"
#include "kernels/core/log.h"

namespace inflight::triton {

inline TRITONSERVER_Error_Code to_triton_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return TRITONSERVER_ERROR_INVALID_ARG;
    case ErrorCode::kUnsupported:
      return TRITONSERVER_ERROR_UNSUPPORTED;
    case ErrorCode::kResourceExhausted:
    case ErrorCode::kTimedOut:  // as of the server's own time-outs
    case ErrorCode::kUnavailable:
      return TRITONSERVER_ERROR_UNAVAILABLE;
    case ErrorCode::kNotFound:
      return TRITONSERVER_ERROR_NOT_FOUND;
    case ErrorCode::kCancelled:
      return TRITONSERVER_ERROR_CANCELLED;
    case ErrorCode::kInternal:
      break;
  }
  return TRITONSERVER_ERROR_INTERNAL;
}

/// What another model answered; the error object stays its owner's.
inline Error to_error(TRITONSERVER_Error* error) {
  const auto code = [&] {
    switch (TRITONSERVER_ErrorCode(error)) {
      case TRITONSERVER_ERROR_INVALID_ARG:
        return ErrorCode::kInvalidArgument;
      case TRITONSERVER_ERROR_UNSUPPORTED:
        return ErrorCode::kUnsupported;
      case TRITONSERVER_ERROR_UNAVAILABLE:
        return ErrorCode::kUnavailable;
      case TRITONSERVER_ERROR_NOT_FOUND:
        return ErrorCode::kNotFound;
      case TRITONSERVER_ERROR_CANCELLED:
        return ErrorCode::kCancelled;
      default:
        return ErrorCode::kInternal;
    }
  };
  return {code(), TRITONSERVER_ErrorMessage(error)};
}

/// Raises what a Triton call reported; takes the error object.
inline void check_triton(TRITONSERVER_Error* error, const char* call) {
  if (error == nullptr) [[likely]]
    return;
  std::string message = concat(call, ": ", TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  throw Error(ErrorCode::kInternal, message);
}

/// For places that cannot fail any further: the error goes to the server's log.
inline void log_if_error(TRITONSERVER_Error* error, const char* call) {
  if (error == nullptr) [[likely]]
    return;
  std::string message = concat(call, ": ", TRITONSERVER_ErrorMessage(error));
  TRITONSERVER_ErrorDelete(error);
  log(LogLevel::kError, message);
}

/// Runs `body` at the C boundary: nothing leaves but an error object (nullptr = fine).
template <typename Body>
TRITONSERVER_Error* guarded(Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const Error& error) {
    return TRITONSERVER_ErrorNew(to_triton_code(error.code()), error.what());
  } catch (const std::exception& error) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, error.what());
  } catch (...) {
    return TRITONSERVER_ErrorNew(TRITONSERVER_ERROR_INTERNAL, "unknown exception");
  }
}

/// The sink of inflight::log inside a server.
inline void write_to_server_log(LogLevel level, std::string_view message) {
  constexpr TRITONSERVER_LogLevel kLevels[] = {TRITONSERVER_LOG_VERBOSE, TRITONSERVER_LOG_INFO,
                                               TRITONSERVER_LOG_WARN, TRITONSERVER_LOG_ERROR};
  const std::string text(message);
  if (auto* failed = TRITONSERVER_LogMessage(kLevels[static_cast<int>(level)], "inflight",
                                             /*line=*/0, text.c_str()))
    TRITONSERVER_ErrorDelete(failed);
}

}  // namespace inflight::triton
