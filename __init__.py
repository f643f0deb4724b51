"""clara-proxy: an OpenAI-compatible proxy that compresses long context, and the library inside it.

Each name is imported on first use, so that `import clara_proxy` loads neither torch nor the server.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compression.clara.clara import Clara
    from .proxy.app import create_app
    from .proxy.runtime.in_process import compress

    __version__: str

__all__ = ["Clara", "__version__", "compress", "create_app"]

_MODULES = {
    "Clara": ".compression.clara.clara",
    "compress": ".proxy.runtime.in_process",
    "create_app": ".proxy.app",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name == "__version__":
        value: Any = version("clara-proxy")
    elif name in _MODULES:
        try:
            value = getattr(import_module(_MODULES[name], __name__), name)
        except ModuleNotFoundError as error:
            if name != "Clara":
                raise
            from .config.extras import describe_install  # noqa: PLC0415 - only for this error

            message = f"Clara needs the extra: {describe_install('clara')} ({error})"
            raise ModuleNotFoundError(message, name=error.name) from error
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
