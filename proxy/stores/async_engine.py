"""SQLAlchemy's asynchronous engine without its ORM, which `sqlalchemy.ext.asyncio` imports for sessions.

The ORM takes 7 MB and 45 ms, and nothing here uses it. The package stays importable for other libraries.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

__all__ = ["AsyncConnection", "AsyncEngine", "create_async_engine"]
_PACKAGE = "sqlalchemy.ext.asyncio"


def _import_engine() -> ModuleType:
    """Import the package's module `engine` while the package is a module without its content."""
    spec = None if _PACKAGE in sys.modules else find_spec(_PACKAGE)
    if spec is None:
        return import_module(_PACKAGE)
    sys.modules[_PACKAGE] = module_from_spec(spec)
    try:
        return import_module(f"{_PACKAGE}.engine")
    finally:
        del sys.modules[_PACKAGE]  # the next import of the package executes it


def __getattr__(name: str) -> Any:
    """Return a name of `__all__` (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_engine, name)


_engine = _import_engine()
