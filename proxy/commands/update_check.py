"""The command `clara-proxy update-check`: asks the package index that pip is configured for about a newer version.

Nothing else in clara-proxy looks for updates.
"""

import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import PurePath

import typer

from .options import exit_with_error

PACKAGE = "clara-proxy"
TIMEOUT = 30.0  # seconds
_LATEST = re.compile(rf"^{PACKAGE} \((\S+)\)", re.MULTILINE)


def update_check() -> None:
    """Ask pip's package index for a newer version. The proxy never does so by itself."""
    installed, latest = version(PACKAGE), _find_latest()
    if parse_version(latest) <= parse_version(installed):
        typer.echo(f"{PACKAGE} {installed} is the newest version")
        return
    typer.echo(f"{PACKAGE} {latest} is available, {installed} is installed; update: {describe_update(sys.prefix)}")


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of a release, such as (1, 2, 0); a pre-release counts as its release."""
    return tuple(int(number) for number in re.split(r"[a-z+-]", text.removeprefix("v"))[0].split(".") if number)


def describe_update(prefix: str) -> str:
    """Return the command that updates the installation in this environment."""
    parts = PurePath(prefix).parts
    if "pipx" in parts:
        return f"pipx upgrade {PACKAGE}"
    return f"uv tool upgrade {PACKAGE}" if "uv" in parts else f"pip install --upgrade {PACKAGE}"


def _find_latest() -> str:
    """Return the newest release in the index; without one, end the command with status 2."""
    pip = [sys.executable, "-m", "pip"] if find_spec("pip") else [path] if (path := shutil.which("pip")) else []
    if not pip:
        exit_with_error("cannot look for updates: pip is not installed, and only its configuration names an index", 2)
    options = ["--retries", "0", "--timeout", "10", "--disable-pip-version-check", "--no-input"]
    try:
        result = subprocess.run(  # noqa: S603 - no shell, constant arguments
            [*pip, "index", "versions", PACKAGE, *options], capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired):
        exit_with_error("cannot look for updates: the package index of pip does not answer", 2)
    match = _LATEST.search(result.stdout)
    if match is None:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with status {result.returncode}"
        exit_with_error(f"cannot look for updates: offline, or the index has no {PACKAGE} (pip says: {reason})", 2)
    return match[1]
