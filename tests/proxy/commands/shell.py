"""The command line as a user starts it: real processes, which see of the environment only what they are given."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_CODE = "from clara_proxy.proxy.commands.cli import main; main()"
_BARE = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200"}
PATIENCE = 60.0  # seconds


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-c", _CODE, *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=_BARE | environment,
    )


class Started:
    """A command that runs, in a group of its own, as in a terminal; `out` and `err` are files of what it says."""

    def __init__(self, process: "subprocess.Popen[bytes]", out: Path, err: Path) -> None:
        self.process, self._out, self._err = process, out, err

    @property
    def out(self) -> str:
        """What it has said so far."""
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it has complained of so far."""
        return self._err.read_text(encoding="utf-8")

    def says(self, text: str) -> str:
        """Wait until it has said this, anywhere; returns the line."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in (self.out + self.err).splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was never said, but {self.out}{self.err}")

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal tells everybody in the group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ended(self) -> int:
        """Wait for its end; returns its status."""
        return self.process.wait(PATIENCE)


@contextmanager
def _interruptible() -> Generator[None]:
    """Let what is started here hear an interrupt, also where these tests run in the background, which ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Generator[Started]:
    """Start a command, and leave nothing of it behind."""
    out, err = folder / "out.txt", folder / "err.txt"
    with out.open("wb") as said, err.open("wb") as complained, _interruptible():
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE, *arguments],
            stdout=said,
            stderr=complained,
            start_new_session=True,
            env=_BARE | environment,
        )
        try:
            yield Started(process, out, err)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
