"""Which proxy stands between this machine and a host: the one that was set, else what the environment says.

`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in small letters, too, as every HTTP client reads them, and
what the system says where it has such settings; `~/.netrc` is never read. Nothing here connects. The invariant: this
machine itself and what `NO_PROXY` names are reached directly, and no message repeats a proxy's address: there may be a
password in it.
"""

from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, getproxies_environment, proxy_bypass

NO_PROXY_VALUE = "none"  # what is set where there shall be no proxy
SCHEMES = ("http", "https")


class UnusableProxyError(ValueError):
    """A proxy's address that is none, or of a kind that is not spoken here."""


class ProxyResolver:
    """The proxies of this process; `chosen` counts more than the environment, which is read when this is made."""

    def __init__(self, override: str | None = None) -> None:
        told = getproxies()
        self._proxy_by_scheme = {
            scheme: _pick_proxy(told, scheme) if override is None else override for scheme in SCHEMES
        }
        self._bypassed_hosts = [entry.strip() for entry in told.get("no", "").split(",")]

    def find_proxy(self, scheme: str, host: str, port: int) -> str | None:
        """Return the address of the proxy on the way to a host, or None where there is none.

        Raises:
            UnusableProxyError: there is one, and it cannot be used.
        """
        found = self._proxy_by_scheme[scheme]
        if found in ("", NO_PROXY_VALUE) or self._is_loopback(host) or self._is_bypassed(host, port):
            return None
        return validate_proxy_url(found if "://" in found else f"http://{found}")

    def _is_loopback(self, host: str) -> bool:
        return host == "localhost" or host.endswith(".localhost") or _is_in_networks(host, ("127.0.0.0/8", "::1"))

    def _is_bypassed(self, host: str, port: int) -> bool:
        written = f"[{host}]" if ":" in host else host
        return _is_in_networks(host, self._bypassed_hosts) or bool(proxy_bypass(f"{written}:{port}"))


def build_loopback_bypass() -> dict[str, str]:
    """Return the variables with which a command that we start reaches this machine directly, where it would not."""
    told = getproxies_environment()
    if told.get("no", "").strip() == "*" or not told.keys() & {*SCHEMES, "all"}:
        return {}
    listed = ",".join(filter(None, (told.get("no"), "127.0.0.1", "localhost")))
    return {"NO_PROXY": listed, "no_proxy": listed}


def validate_proxy_url(url: str) -> str:
    """Return the address of a proxy if it can be used.

    Raises:
        UnusableProxyError: it cannot.
    """
    try:
        parts = urlsplit(url)
        complete = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        complete, parts = False, urlsplit("")
    if not complete or parts.scheme not in SCHEMES:
        raise UnusableProxyError("a proxy's address must be http://HOST:PORT or https://HOST:PORT, no other kind")
    return url


def _pick_proxy(told: dict[str, str], scheme: str) -> str:
    return told.get(scheme) or told.get("all", "")


def _is_in_networks(host: str, networks: list[str] | tuple[str, ...]) -> bool:
    """Say whether a host is an address in one of these networks; what is no network has none in it."""
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
