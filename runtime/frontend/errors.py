"""What a client is told when its request cannot be answered: OpenAI's error object and an HTTP status."""

from __future__ import annotations

import orjson


class ApiError(Exception):
    """Ends a request. `retry_after_s` is given where the same request may succeed later."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    def body(self) -> bytes:
        """The JSON object OpenAI's clients expect."""
        fields = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return orjson.dumps({"error": fields})

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What the status asks for beside the body."""
        return [] if self.retry_after_s is None else [(b"retry-after", b"%d" % self.retry_after_s)]


def bad_value(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


def too_long(message: str, param: str) -> ApiError:
    """400: prompt and answer do not fit the model's context."""
    return bad_value(message, param, "context_length_exceeded")


def overloaded(message: str) -> ApiError:
    """429: as much is running and waiting as may."""
    return ApiError(429, message, type="rate_limit_error", code="overloaded", retry_after_s=1)


def unavailable(message: str, code: str) -> ApiError:
    """503: nothing behind this frontend can take the request now."""
    return ApiError(503, message, type="service_unavailable", code=code, retry_after_s=2)


def late(timeout_s: float) -> ApiError:
    """504: the request took longer than it may."""
    return ApiError(
        504, f"the request took longer than {timeout_s:g} s", type="timeout_error", code="deadline_exceeded"
    )


def internal(message: str) -> ApiError:
    """500: our fault, or the engine's, and trying again would not help."""
    return ApiError(500, message, type="server_error", code="internal_error")
