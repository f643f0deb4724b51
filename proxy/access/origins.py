"""Checks of addresses, Host headers and Origins, without any name look-up.

A malicious web page can make a browser send requests to a proxy on this machine, cross-origin or through DNS rebinding
(a name of the attacker that resolves to 127.0.0.1). Both are detected by name: local origins and hosts are `localhost`
or an IP address.
"""

import ipaddress
from collections.abc import Collection, Mapping
from functools import lru_cache
from urllib.parse import urlsplit

_LOCAL_NAMES = ("localhost",)
_PRIVATE_SUFFIXES = ("internal",)  # reserved top-level names, as in `host.docker.internal`


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach an address."""
    address = _parse_address(host)
    return host == "localhost" if address is None else address.is_loopback


@lru_cache(maxsize=256)
def is_local_server(server: str) -> bool:
    """Return True if a connection came from this machine: its server address is loopback or a socket path."""
    address = _parse_address(server)
    return address is None or address.is_loopback


@lru_cache(maxsize=256)
def is_trusted_host(host: bytes) -> bool:
    """Return True if a Host header has a name that an attacker cannot register."""
    name = _parse_hostname(f"//{host.decode('latin-1')}")
    if name is None:
        return False
    suffix = name.rpartition(".")[2]
    return _parse_address(name) is not None or "." not in name or suffix in (*_LOCAL_NAMES, *_PRIVATE_SUFFIXES)


@lru_cache(maxsize=256)
def is_foreign_origin(origin: bytes) -> bool:
    """Return True if an Origin header is a web page's of another host; programs and extensions have other schemes."""
    url = origin.decode("latin-1")
    if url.partition("://")[0].lower() not in ("http", "https"):
        return url.lower() == "null"
    name = _parse_hostname(url)
    return name is None or not (is_loopback(name) or name.rpartition(".")[2] in _LOCAL_NAMES)


def is_foreign_page(headers: Mapping[bytes, bytes], allowed: Collection[bytes], *, is_open: bool) -> bool:
    """Return True if the page of another origin made a browser send a request.

    Clients that are not browsers send neither `Origin` nor `Sec-Fetch-Site`; pages of programs and extensions have
    other schemes than http. With `is_open` any host may be in the Host header, except in a browser, because of DNS
    rebinding.

    Args:
        headers: the request's headers, by name in lower case.
        allowed: the values of `Origin` that are not foreign.
        is_open: whether requests from other machines are accepted.
    """
    host, origin, site = headers.get(b"host"), headers.get(b"origin"), headers.get(b"sec-fetch-site", b"none")
    if origin is not None and origin in allowed:
        return False
    is_rebound = host is not None and not is_trusted_host(host)
    if origin is not None:
        is_own = is_open and origin.partition(b"://")[2] == host
        if is_foreign_origin(origin) and not is_own:
            return True
    elif site not in (b"none", b"same-origin") and headers.get(b"sec-fetch-mode") != b"navigate":
        return True
    is_browser = origin is not None or b"sec-fetch-site" in headers
    return is_rebound and (is_browser or not is_open)


def _parse_hostname(url: str) -> str | None:
    try:
        name = urlsplit(url).hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
