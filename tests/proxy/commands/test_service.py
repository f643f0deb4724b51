"""`clara-proxy service`: its files, checked by systemd's own verifier and by Python's reader of property lists."""

import os
import plistlib
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from clara_proxy.proxy.commands import service_files
from clara_proxy.tests.proxy.commands import shell

COMMAND = ("/opt/my tools/bin/clara-proxy", "serve", "--config", '/home/me/50% "off"/$HOME.yaml')


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "my tools" / "clara-proxy"
    program.parent.mkdir()
    program.write_text("", encoding="utf-8")
    program.chmod(0o755)
    unit = tmp_path / service_files.UNIT
    text = service_files.render("systemd", (str(program), *COMMAND[1:]), "/opt/x y:/usr/bin")
    unit.write_text(text, encoding="utf-8")
    environment = {"XDG_RUNTIME_DIR": str(tmp_path), "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    result = subprocess.run(
        ["systemd-analyze", "--user", "verify", str(unit)], capture_output=True, text=True, check=False, env=environment
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_unit_quotes_arguments() -> None:
    unit = service_files.render("systemd", COMMAND, "/opt/x%y:/usr/bin")
    quoted = r'"/home/me/50%% \"off\"/$$HOME.yaml"'
    assert f'ExecStart="/opt/my tools/bin/clara-proxy" "serve" "--config" {quoted}\n' in unit
    assert 'Environment="PATH=/opt/x%%y:/usr/bin"\n' in unit
    assert "RestartPreventExitStatus=2\n" in unit


def test_property_list_runs_the_same_command() -> None:
    properties = plistlib.loads(service_files.render("launchd", COMMAND, "/opt/x:/usr/bin").encode())
    assert properties["ProgramArguments"] == list(COMMAND)
    assert properties["EnvironmentVariables"] == {"PATH": "/opt/x:/usr/bin"}
    assert properties["KeepAlive"] == {"SuccessfulExit": False}
    assert properties["RunAtLoad"] is True


def test_install_and_uninstall_call_systemd(tmp_path: Path) -> None:
    """The double records the calls: systemd does not run for the user who runs the tests."""
    calls = tmp_path / "calls"
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n', encoding="utf-8")
    systemctl.chmod(systemctl.stat().st_mode | stat.S_IXUSR)
    environment = {"HOME": str(tmp_path), "PATH": f"{systemctl.parent}:/usr/bin:/bin"}
    unit = tmp_path / ".config" / "systemd" / "user" / service_files.UNIT
    missing = shell.run("service", "uninstall", **environment)
    assert (missing.returncode, calls.exists()) == (1, False)
    installed = shell.run("service", "install", **environment)
    assert installed.returncode == 0, installed.stderr
    assert f"PATH={environment['PATH']}" in unit.read_text(encoding="utf-8")
    removed = shell.run("service", "uninstall", **environment)
    assert (removed.returncode, unit.exists()) == (0, False)
    assert calls.read_text(encoding="utf-8").splitlines() == [
        "--user daemon-reload",
        f"--user enable {service_files.UNIT}",
        f"--user restart {service_files.UNIT}",
        f"--user disable --now {service_files.UNIT}",
        "--user daemon-reload",
    ]


def test_invalid_settings_are_reported_before_installing(tmp_path: Path) -> None:
    result = shell.run("service", "install", HOME=str(tmp_path), CLARA_PORT="many")
    assert result.returncode == 2
    assert "CLARA_PORT" in result.stderr
    assert list(tmp_path.iterdir()) == []
