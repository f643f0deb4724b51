"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}` with a status code."""

from collections.abc import Mapping

import orjson

from .json_types import Json, is_array, is_object

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    502: "upstream_error",
    503: "overloaded_error",
    504: "upstream_error",
}


class ApiError(Exception):
    """An error response to the client. The error `type` follows from the status."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def encode(self) -> bytes:
        """Return the error as JSON."""
        return encode_error(self.status, self.message, code=self.code, param=self.param)


class UpstreamError(ApiError):
    """A failure or refusal of the upstream, which was reached and may have billed the request."""


def build_compression_error(*, is_too_long: bool) -> ApiError:
    """Return the error of a request that fails closed: a retry may help, except for a text that is too long."""
    if is_too_long:
        message = "a text of the request is too long to be compressed; split it, or leave out x-clara-fail: closed"
        return ApiError(413, message, code="text_too_long")
    message = "compression failed or timed out, and the request asks to fail closed; retry, or allow it to fail open"
    return ApiError(503, message, code="compression_failed", headers={"retry-after": "1"})


def has_error(reply: Json) -> bool:
    """Return True if a reply or an event reports an error in any protocol, whatever its status."""
    if reply.get("error") or reply.get("object") == "error" or reply.get("type") in ("error", "response.failed"):
        return True
    choices, response = reply.get("choices"), reply.get("response")
    if is_object(response) and response.get("error"):
        return True
    return is_array(choices) and any(is_object(choice) and choice.get("finish_reason") == "error" for choice in choices)


def describe_error(reply: Json) -> str:
    """Return the message of the error that a reply or an event reports, in any protocol."""
    response = reply.get("response")
    holder = response if is_object(response) else reply
    error = holder.get("error") or holder
    message = error.get("message") if is_object(error) else error
    return str(message or "no message")[:500]


def encode_error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> bytes:
    """Return an error as OpenAI's JSON."""
    kind = _ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return orjson.dumps({"error": {"message": message, "type": kind, "param": param, "code": code}})
