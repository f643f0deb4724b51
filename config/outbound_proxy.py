"""Finds the HTTP proxy for a host: the configured one, else the environment's.

It reads `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` in upper and lower case, and the system's settings, but
not `~/.netrc`. This machine and the hosts in `NO_PROXY` are reached directly. No message repeats a proxy's address,
since it may contain a password.
"""

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

NO_PROXY_VALUE = "none"  # the setting that turns proxies off
SCHEMES = ("http", "https")


class UnusableProxyError(ValueError):
    """A proxy's address is invalid or has an unsupported scheme."""


class ProxyResolver:
    """Finds the proxies of this process; `override` takes precedence over the environment, read once at creation."""

    def __init__(self, override: str | None = None) -> None:
        proxies = getproxies()
        self._proxy_by_scheme = {
            scheme: _pick_proxy(proxies, scheme) if override is None else override for scheme in SCHEMES
        }
        self._bypassed_hosts = [entry.strip() for entry in proxies.get("no", "").split(",")]

    def find_proxy(self, scheme: str, host: str, port: int) -> str | None:
        """Return the address of the proxy for a host, or None if the host is reached directly.

        Raises:
            UnusableProxyError: the proxy's address cannot be used.
        """
        proxy = self._proxy_by_scheme[scheme]
        if proxy in ("", NO_PROXY_VALUE) or self._is_loopback(host) or self._is_bypassed(host, port):
            return None
        return validate_proxy_url(proxy if "://" in proxy else f"http://{proxy}")

    def _is_loopback(self, host: str) -> bool:
        return host == "localhost" or host.endswith(".localhost") or _is_in_networks(host, ("127.0.0.0/8", "::1"))

    def _is_bypassed(self, host: str, port: int) -> bool:
        name = f"[{host}]" if ":" in host else host
        return _is_in_networks(host, self._bypassed_hosts) or bool(proxy_bypass(f"{name}:{port}"))


def build_loopback_bypass() -> dict[str, str]:
    """Return the variables that make a child process reach this machine directly; none if it already does."""
    proxies = getproxies_environment()
    if proxies.get("no", "").strip() == "*" or not proxies.keys() & {*SCHEMES, "all"}:
        return {}
    hosts = ",".join(filter(None, (proxies.get("no"), "127.0.0.1", "localhost")))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def validate_proxy_url(url: str) -> str:
    """Return a proxy's address unchanged, once it is validated.

    Raises:
        UnusableProxyError: the address is invalid or has an unsupported scheme.
    """
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number
        complete, parts = False, urlsplit("")
    if not complete or parts.scheme not in SCHEMES:
        raise UnusableProxyError("the address of a proxy must be http://HOST:PORT or https://HOST:PORT")
    return url


def _pick_proxy(proxies: dict[str, str], scheme: str) -> str:
    return proxies.get(scheme) or proxies.get("all", "")


def _is_in_networks(host: str, networks: list[str] | tuple[str, ...]) -> bool:
    """Return True if a host is an address in one of these networks; invalid networks are ignored."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for network in networks:
        try:
            if address in ip_network(network, strict=False):
                return True
        except ValueError:
            continue
    return False
