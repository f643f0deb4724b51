"""What `clara-proxy serve` prints in a terminal once it is ready: addresses, mode, engine, and lines to copy."""

from importlib.metadata import version

from ...config.settings import Settings
from ..runtime import local_model


def render_banner(settings: Settings, url: str, upstream: str, socket_path: str | None) -> str:
    """Return the banner.

    Args:
        settings: the settings of the proxy
        url: its base URL, without `/v1`
        upstream: the URL of the upstream, without credentials
        socket_path: the Unix socket on which it listens instead of `url`
    """
    model = local_model.resolve_local_model(settings)
    facts = {
        "address": url if socket_path is None else f"unix:{socket_path}",
        "upstream": upstream,
        "mode": settings.mode,
        "engine": "extract (no model)" if model is None else f"extract; CLaRa: {model}",
        "data": str(settings.data_dir.expanduser()),
        "dashboard": f"{url}/dashboard",
    }
    lines = [f"clara-proxy {version('clara-proxy')}", *(f"  {name:<10} {value}" for name, value in facts.items())]
    if socket_path is None:
        lines += ["", f"  export OPENAI_BASE_URL={url}/v1", f"  export ANTHROPIC_BASE_URL={url}"]
    return "\n".join([*lines, "", "Press Ctrl-C to stop."])
