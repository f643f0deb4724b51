"""Checks two parts of a client's body: the model's name, because it may become a part of a URL, and URLs to fetch.

A litellm provider puts the name into the path of its URL, and this process fetches images for some providers.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from ..protocols.api_errors import ApiError
from ..protocols.json_types import is_array, is_object

MAX_MODEL_CHARACTERS = 256
FETCHED_SCHEMES = frozenset({"http", "https"})
_PASSED_SCHEMES = frozenset({"data", "gs", "s3"})  # the body itself, and the providers' own stores
_RESOLVE_SECONDS = 2.0
# A control character, the end of a path, and a segment of dots, percent-encoded or not.
_UNSAFE_NAME = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff?#]|%(?:0|1|2[ef3]|3f|5c|7f|25)"
    r"|(?:^|[/\\])\.{1,2}(?:[/\\]|$)",
    re.IGNORECASE,
)
_URL_PATTERN = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*):")
_TEXT_FIELDS = frozenset({"text", "content", "arguments", "reasoning_content", "thinking", "data"})
_LOCAL_SUFFIXES = frozenset({"localhost", "local", "internal", "localdomain", "arpa", "lan", "home", "corp"})
_TRANSLATED_NETWORK = ipaddress.IPv6Network("64:ff9b::/96")


def validate_model(model: object) -> None:
    """Check the name of a model before the request is routed.

    Raises:
        ApiError: 400 for a name that is too long or could change the URL of a request.
    """
    if not isinstance(model, str):
        return
    if len(model) > MAX_MODEL_CHARACTERS:
        message = f"the name of the model is longer than {MAX_MODEL_CHARACTERS} characters"
        raise ApiError(400, message, param="model", code="invalid_model")
    if _UNSAFE_NAME.search(model):
        message = "the name of the model contains a control character, ?, # or a . or .. segment"
        raise ApiError(400, message, param="model", code="invalid_model")


async def reject_private_urls(messages: object) -> None:
    """Check the URLs in messages that this process may fetch for a provider.

    Raises:
        ApiError: 400 for a URL of another scheme than http, or of a host on this machine or in a private network.
    """
    for url in _iter_urls(messages):
        if not await _is_public(url):
            message = "a URL in the messages leads to a private address, which the proxy does not fetch"
            raise ApiError(400, message, param="messages", code="private_address")


def _iter_urls(value: object, field: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if field not in _TEXT_FIELDS and (match := _URL_PATTERN.match(value)):
            scheme = match[1].lower()
            if scheme not in _PASSED_SCHEMES and (scheme in FETCHED_SCHEMES or "//" in value[match.end() :][:2]):
                yield value.strip()
    elif is_array(value):
        for item in value:
            yield from _iter_urls(item, "" if field == "content" else field)
    elif is_object(value):
        for name, item in value.items():
            yield from _iter_urls(item, name)


async def _is_public(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").partition("%")[0]
    except ValueError:
        return False
    if parts.scheme.lower() not in FETCHED_SCHEMES or not host:
        return False
    if (address := _parse_address(host)) is not None:
        return _is_global(address)
    if "." not in host or host.lower().rpartition(".")[2] in _LOCAL_SUFFIXES:
        return False
    return all(map(_is_global, await _resolve(host)))


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that a host spells, also as one number, in octal or in hexadecimal."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


async def _resolve(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses of a host name; none if it has none, and then no request can reach it."""
    lookup = asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    try:
        infos = await asyncio.wait_for(lookup, _RESOLVE_SECONDS)
    except (OSError, UnicodeError, TimeoutError):
        return []
    return [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in infos]


def _is_global(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if (embedded := address.ipv4_mapped or address.sixtofour) is not None:
            return _is_global(embedded)
        if address in _TRANSLATED_NETWORK:  # an IPv6 network may translate to IPv4
            return _is_global(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    return address.is_global and not address.is_multicast
