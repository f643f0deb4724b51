"""The commands `clara-proxy service ...`: run the proxy as a service of the user, by systemd or launchd."""

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ...config import client_environment
from . import options, service_files
from .options import Config, exit_with_error
from .service_files import LABEL, UNIT

app = typer.Typer(
    help="Run the proxy as a service of your user: systemd on Linux, launchd on macOS.", no_args_is_help=True
)
Manager = Annotated[
    str | None,
    typer.Option("--manager", help="systemd or launchd. Default: the one of this system.", show_default=False),
]


@app.command("print")
def print_file(config: Config = None, manager: Manager = None) -> None:
    """Print the unit file or property list that `install` would write."""
    typer.echo(_render(config, _choose_manager(manager)), nl=False)


@app.command()
def install(config: Config = None) -> None:
    """Write the service, start it now, and start it at every login. An existing service is replaced."""
    manager = _choose_manager(None)
    text, path = _render(config, manager), service_files.locate(manager)
    path.parent.mkdir(parents=True, exist_ok=True)
    service_files.locate_log().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {path}")
    if manager == "systemd":
        _run("systemctl", "--user", "daemon-reload")
        _run("systemctl", "--user", "enable", UNIT)
        _run("systemctl", "--user", "restart", UNIT)
        typer.echo("to keep it running while you are logged out: loginctl enable-linger")
    else:
        _run("launchctl", "unload", str(path), is_optional=True)
        _run("launchctl", "load", "-w", str(path))
    typer.echo("started; see `clara-proxy service status` and `clara-proxy service logs`")


@app.command()
def uninstall() -> None:
    """Stop the service and remove its file. Settings, ledger and originals stay."""
    manager = _choose_manager(None)
    path = service_files.locate(manager)
    if not path.exists():
        exit_with_error(f"there is no service: {path} does not exist", 1)
    if manager == "systemd":
        _run("systemctl", "--user", "disable", "--now", UNIT, is_optional=True)
    else:
        _run("launchctl", "unload", "-w", str(path), is_optional=True)
    path.unlink()
    if manager == "systemd":
        _run("systemctl", "--user", "daemon-reload", is_optional=True)
    typer.echo(f"removed {path}")


@app.command()
def status() -> None:
    """Show the state of the service. The exit status is that of systemctl or launchctl."""
    is_systemd = _choose_manager(None) == "systemd"
    _exit_as("systemctl", "--user", "status", "--no-pager", UNIT) if is_systemd else _exit_as(
        "launchctl", "list", LABEL
    )


@app.command()
def logs(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines to show.")] = 100,
) -> None:
    """Print the last lines of the service's log."""
    options_of_tail = ["-n", str(lines), *(["-f"] if follow else [])]
    if _choose_manager(None) == "systemd":
        _exit_as("journalctl", "--user", "--no-pager", "--unit", UNIT, *options_of_tail)
    _exit_as("tail", *options_of_tail, str(service_files.locate_log()))


def _choose_manager(name: str | None) -> str:
    if name is None:
        name = "launchd" if platform.system() == "Darwin" else "systemd"
    if name not in service_files.MANAGERS:
        exit_with_error(f"--manager must be one of {', '.join(service_files.MANAGERS)}, got {name!r}", 2)
    return name


def _render(config: Path | None, manager: str) -> str:
    options.load_settings(config)  # reports an invalid setting now rather than in the log of the service
    program = shutil.which("clara-proxy") or str(Path(sys.argv[0]).resolve())
    command = [program, "serve", *([] if config is None else ["--config", str(config.resolve())])]
    return service_files.render(manager, command, client_environment.read_search_path())


def _run(*command: str, is_optional: bool = False) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed programs
    except FileNotFoundError:
        exit_with_error(
            f"{command[0]} is not installed; `clara-proxy service print` prints the file for other managers", 1
        )
    if result.returncode and not is_optional:
        reason = result.stderr.strip() or result.stdout.strip()
        if "connect to bus" in reason:  # of a user without a session: su, sudo, a container
            reason += "; log in as this user, or run `loginctl enable-linger` and set XDG_RUNTIME_DIR=/run/user/UID"
        exit_with_error(f"`{' '.join(command)}` failed: {reason}", 1)


def _exit_as(*command: str) -> NoReturn:
    try:
        status = subprocess.run(command, check=False).returncode  # noqa: S603 - fixed programs
    except FileNotFoundError:
        exit_with_error(f"{command[0]} is not installed", 1)
    raise typer.Exit(status)
