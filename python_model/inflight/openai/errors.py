"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

_INVALID = "invalid_request_error"


class ApiError(Exception):
    """An answer that is no answer. `param` names the request's field, `code` is for programs."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        type: str = _INVALID,
        param: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.type = message, status, type
        self.param, self.code = param, code

    def body(self) -> dict[str, Any]:
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}


def not_supported(param: str, message: str) -> ApiError:
    return ApiError(message, param=param, code="unsupported_parameter")


def bad_value(param: str, message: str) -> ApiError:
    return ApiError(message, param=param, code="invalid_value")


def unavailable(message: str) -> ApiError:
    return ApiError(message, status=503, type="server_error", code="unavailable")


def timed_out(message: str) -> ApiError:
    return ApiError(message, status=504, type="server_error", code="timeout")


def ended_early(reason: str) -> ApiError:
    """Of an answer that neither ended by itself nor reached its length."""
    if reason == "deadline":
        return timed_out("the server's time limit of a request ended the answer")
    message = f"the server ended the answer ({reason or 'it does not say why'})"
    return ApiError(message, status=503, type="server_error", code="cancelled")


def of_engine(message: str) -> ApiError:
    """An error that the server sent over a stream, which carries a text and no code."""
    if "Maximum queue size" in message:
        return ApiError(message, status=503, type="server_error", code="engine_overloaded")
    if "timeout expired" in message:
        return timed_out(message)
    if "is not ready" in message or "unknown model" in message:
        return unavailable(message)
    if "Executor failed" in message or "populating response" in message:
        return ApiError(message, status=500, type="server_error", code="engine_error")
    return ApiError(message)
