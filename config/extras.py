"""The command to install an extra from the source of this installation, into its environment."""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import unquote, urlsplit

PACKAGE = "clara-proxy"


def describe_install(extra: str) -> str:
    """Return the command that adds an extra to this installation, such as `pip install '/src/clara-proxy[redis]'`."""
    try:
        origin = Distribution.from_name(PACKAGE).read_text("direct_url.json")
    except PackageNotFoundError:  # the code runs from a folder that is not installed
        origin = None
    return build_command(extra, sys.prefix, origin)


def build_command(extra: str, prefix: str, origin: str | None) -> str:
    """Return the command for the environment `prefix`; `origin` is its `direct_url.json` (PEP 610)."""
    requirement = _build_requirement(extra, json.loads(origin) if origin else {})
    folders = PurePath(prefix).parts
    if "pipx" in folders:
        return f"pipx install --force '{requirement}'"
    return f"uv tool install --force '{requirement}'" if "uv" in folders else f"pip install '{requirement}'"


def _build_requirement(extra: str, origin: Mapping[str, Any]) -> str:
    url = str(origin.get("url", ""))
    parts = urlsplit(url)
    if parts.scheme == "file":
        folder = unquote(parts.path)
        return f"{folder}[{extra}]" if Path(folder).exists() else f".[{extra}]"  # the checkout, wherever it is now
    vcs = origin.get("vcs_info", {}).get("vcs")
    return f"{PACKAGE}[{extra}] @ {vcs}+{url}" if vcs else f"{PACKAGE}[{extra}]"
