"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}` with a status code."""

from collections.abc import Mapping

import orjson

from .json_types import Json, is_array, is_object


class ApiError(Exception):
    """An error to answer with; `type` follows from the status unless it is given."""

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
        """Write the error down as JSON."""
        return encode_error(self.status, self.message, code=self.code, param=self.param)


class UpstreamError(ApiError):
    """What the upstream did wrong, or refused: it was reached, and may have billed for it."""


def has_error(said: Json) -> bool:
    """Say whether an answer or an event tells of an error, in any protocol's words, whatever status it came with."""
    if said.get("error") or said.get("type") in ("error", "response.failed"):
        return True
    choices, response = said.get("choices"), said.get("response")
    if is_object(response) and response.get("error"):
        return True
    return is_array(choices) and any(is_object(one) and one.get("finish_reason") == "error" for one in choices)


def encode_error(status: int, message: str, *, code: str | None = None, param: str | None = None) -> bytes:
    """Write an error as OpenAI's JSON."""
    return orjson.dumps({"error": {"message": message, "type": _get_error_type(status), "param": param, "code": code}})


def _get_error_type(status: int) -> str:
    named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error", 502: "upstream_error"}
    named |= {503: "overloaded_error", 504: "upstream_error"}
    return named.get(status, "invalid_request_error" if status < 500 else "server_error")
