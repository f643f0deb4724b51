"""The files that describe the proxy to systemd and launchd. Pure, except for the home directory.

Both restart it after a failure, but not after a start error: exit status 2 names a setting that only the user can
correct. Both carry the PATH of the shell that installed it. Neither holds a key: settings belong into
`~/.clara-proxy/config.yaml`.
"""

import plistlib
from collections.abc import Sequence
from pathlib import Path

MANAGERS = ("systemd", "launchd")
UNIT = "clara-proxy.service"
LABEL = "org.clara-proxy.serve"
RESTART_SECONDS = 5

_SYSTEMD_UNIT = """\
[Unit]
Description=clara-proxy, an OpenAI-compatible proxy that compresses LLM requests
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=exec
ExecStart={command}
Environment={path}
Restart=on-failure
RestartSec={restart}
RestartPreventExitStatus=2
KillSignal=SIGTERM
TimeoutStopSec=60
NoNewPrivileges=yes
UMask=0077

[Install]
WantedBy=default.target
"""


def locate(manager: str) -> Path:
    """Return the path of the file for a service manager."""
    if manager == "systemd":
        return Path("~/.config/systemd/user").expanduser() / UNIT
    return Path("~/Library/LaunchAgents").expanduser() / f"{LABEL}.plist"


def locate_log() -> Path:
    """Return the log file of launchd; systemd has its own journal."""
    return Path("~/.clara-proxy/service.log").expanduser()


def render(manager: str, command: Sequence[str], search_path: str) -> str:
    """Return the file for a service manager.

    Args:
        manager: one of `MANAGERS`
        command: the program with its absolute path, and its arguments
        search_path: the PATH of the service
    """
    if manager == "systemd":
        quoted = " ".join(_quote(argument.replace("$", "$$")) for argument in command)  # `$` begins a variable
        return _SYSTEMD_UNIT.format(command=quoted, path=_quote(f"PATH={search_path}"), restart=RESTART_SECONDS)
    log = str(locate_log())
    properties = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": {"PATH": search_path},
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RESTART_SECONDS,
        "ExitTimeOut": 60,
        "ProcessType": "Background",
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return plistlib.dumps(properties).decode()


def _quote(argument: str) -> str:
    """Return a text in quotes, with `%` doubled, as systemd reads it."""
    escaped = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
