"""Runs the command line in real processes with a controlled environment."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_CODE = "from clara_proxy.proxy.commands.cli import main; main()"
_BARE_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200"}
TIMEOUT = 60.0  # seconds


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-c", _CODE, *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=_BARE_ENVIRONMENT | environment,
    )


class RunningCommand:
    """A running command in a process group of its own, as in a terminal; its output goes to files."""

    def __init__(self, process: "subprocess.Popen[bytes]", out: Path, err: Path) -> None:
        self.process, self._out, self._err = process, out, err

    @property
    def out(self) -> str:
        """Standard output so far."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """Standard error so far."""
        return self._err.read_text(encoding="utf-8")

    def wait_for_line(self, text: str) -> str:
        """Wait for a line of output with this text and return the line."""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            for line in (self.out + self.err).splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"no line with {text!r} in {self.out}{self.err}")

    def interrupt(self) -> None:
        """Send SIGINT to the whole group, as a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def wait(self) -> int:
        """Wait for the end of the command; returns its status."""
        return self.process.wait(TIMEOUT)


@contextmanager
def _interruptible() -> Generator[None]:
    """Let child processes receive SIGINT, even if the tests run in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def start(folder: Path, *arguments: str, **environment: str) -> Generator[RunningCommand]:
    """Start a command and kill it at the end of the block."""
    out, err = folder / "out.txt", folder / "err.txt"
    with out.open("wb") as out_file, err.open("wb") as err_file, _interruptible():
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *arguments],
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
            env=_BARE_ENVIRONMENT | environment,
        )
        try:
            yield RunningCommand(process, out, err)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT)
