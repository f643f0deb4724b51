"""Which machine an address, a Host header or an Origin stands for. Pure; no name is looked up.

A browser that shows a stranger's page can be made to ask a proxy on this machine: from another origin, or by a name of
the stranger's own that suddenly leads here (DNS rebinding). Both are told by names: what is here is called `localhost`
or by a number, and a stranger's page is not.
"""

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

_LOCAL_NAMES = ("localhost",)
_PRIVATE_SUFFIXES = ("internal",)  # top-level names that nobody can register; `host.docker.internal` is one


@lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Say whether only this machine can reach an address."""
    address = _parse_address(host)
    return host == "localhost" if address is None else address.is_loopback


@lru_cache(maxsize=256)
def is_local_server(server: str) -> bool:
    """Say whether a connection came from this machine, by the address it came to; the path of a socket is one too."""
    address = _parse_address(server)
    return address is None or address.is_loopback


@lru_cache(maxsize=256)
def is_trusted_host(host: bytes) -> bool:
    """Say whether a Host header names something that no stranger can point here by a name of his own."""
    name = _parse_hostname(f"//{host.decode('latin-1')}")
    if name is None:
        return False
    last = name.rpartition(".")[2]
    return _parse_address(name) is not None or "." not in name or last in (*_LOCAL_NAMES, *_PRIVATE_SUFFIXES)


@lru_cache(maxsize=256)
def is_foreign_origin(origin: bytes) -> bool:
    """Say whether an Origin header is that of a web page from elsewhere; programs and extensions have other schemes."""
    told = origin.decode("latin-1")
    if told.partition("://")[0].lower() not in ("http", "https"):
        return told.lower() == "null"
    name = _parse_hostname(told)
    return name is None or not (is_loopback(name) or name.rpartition(".")[2] in _LOCAL_NAMES)


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
