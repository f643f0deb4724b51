"""Types of settings that are more than a number or a text: lists, URLs, keys, words that YAML reads as booleans."""

import base64
import re
from importlib.util import find_spec
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from . import outbound_proxy
from .extras import describe_install

KEY_BYTES = 32
Mode = Literal["off", "observe", "auto", "extract", "answer", "summary", "latent", "prune"]
Role = Literal["tool", "user", "assistant"]
RetrieveMode = Literal["auto", "tool", "url", "none"]


def _split_list(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def accept_yaml_false(word: str) -> BeforeValidator:
    """Return a validator that turns false back into `word`: YAML reads an unquoted `off` or `no` as false."""
    return BeforeValidator(lambda value: word if value is False else value)


NameList = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_list)]
RoleList = Annotated[tuple[Role, ...], NoDecode, BeforeValidator(_split_list)]


def require_scheme(*schemes: str) -> AfterValidator:
    """Return a validator that accepts URLs of these schemes; its message omits the URL, which may hold a password."""

    def validate(value: str | None) -> str | None:
        if value is not None and value.partition("://")[0] not in schemes:
            raise ValueError(f"must begin with {', '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    return AfterValidator(validate)


def validate_base_url(value: str) -> str:
    """Return the value; ValueError unless it is a URL with a host, from which a request can be built."""
    if value.partition("://")[0].lower() not in ("http", "https"):
        raise ValueError("must begin with http:// or https://")
    try:
        parts = urlsplit(value)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        has_host = False
    if "#" in value:
        raise ValueError("must not contain #")
    if not has_host or re.search(r"[\x00-\x20\x7f\\\\]", value):
        raise ValueError("must be a URL with a host, such as http://127.0.0.1:8000/v1")
    return value


def validate_origins(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the origins; ValueError unless each is a scheme and a host, as in an `Origin` header, or `null`."""
    for origin in value:
        if origin != "null" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s*]+", origin):
            raise ValueError("must be origins such as https://app.example.com, without a path")
    return value


def validate_encryption_keys(value: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys; ValueError unless each is `KEY_BYTES` bytes in base64."""
    for key in value:
        try:
            fits = len(base64.b64decode(key, validate=True)) == KEY_BYTES
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"must be {KEY_BYTES} bytes in base64, as from `openssl rand -base64 {KEY_BYTES}`")
    return value


def validate_backend(value: str) -> str:
    """Return the value; ValueError unless it is the name of a device or engine, or the URL of another proxy."""
    if value not in ("auto", "cuda", "mps", "mlx", "cpu", "vllm") and not value.startswith(("http://", "https://")):
        raise ValueError("must be auto, cuda, mps, mlx, cpu, vllm, or the URL of a clara-proxy")
    return value


def validate_urls(value: str | None) -> str | None:
    """Return the value; ValueError unless it is a list of URLs, separated by commas."""
    if value is not None and not all(split_urls(value)):
        raise ValueError("must be URLs that begin with http:// or https://, separated by commas")
    return value


def split_urls(value: str) -> list[str]:
    """Return the URLs in a comma-separated list; "" for an invalid entry."""
    urls = [url.strip() for url in value.split(",")]
    return [url if url.startswith(("http://", "https://")) else "" for url in urls]


def validate_keep_alive(value: float) -> float:
    """Return the value; ValueError unless it is at least 0, or -1 for never."""
    if value < 0 and value != -1:
        raise ValueError("must be at least 0, or -1 for never")
    return value


def require_otel_extra(value: bool) -> bool:
    """Return the value; ValueError if it is true and the extra `[otel]` is not installed."""
    if value and not _is_otel_installed():
        raise ValueError(f"needs the extra: {describe_install('otel')}")
    return value


def _is_otel_installed() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def validate_proxy(value: str | None) -> str | None:
    """Return the value; ValueError unless it is the URL of an HTTP proxy, or the word that disables one."""
    return value if value in (None, outbound_proxy.NO_PROXY_VALUE) else outbound_proxy.validate_proxy_url(value)
