"""Run a proxy in its own process, with a watchdog on its event loop, for the attacks to reach.

    python -m clara_proxy.benchmarks.attack.target PORT_FILE HOLDS_FILE

The settings come from `CLARA_*` variables. The watchdog measures the processor time that the loop's own thread takes
between two ticks, so a loaded machine does not lengthen it. Every hold of more than `HOLD_MS` becomes a line of
HOLDS_FILE.
"""

import asyncio
import atexit
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from clara_proxy.config.settings import load_settings
from clara_proxy.proxy.app import create_app
from clara_proxy.proxy.commands import serve

from .upstream import Upstream, run_upstream

HOLD_MS = 50.0
TICK_SECONDS = 0.002
START_SECONDS = 60.0
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


@dataclass(slots=True)
class Target:
    """A running proxy."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Return the base URL, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """Return what the proxy has logged so far."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def read_rss_mb(self) -> float:
        """Return the resident memory in MB."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE_MB

    def count_descriptors(self) -> int:
        """Return the number of open file descriptors."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def read_holds(self) -> list[float]:
        """Return every hold of the event loop of more than `HOLD_MS`, in milliseconds, and forget them."""
        path = self.folder / "holds.txt"
        holds = [float(line) for line in path.read_text().split()]
        os.truncate(path, 0)
        return holds

    @property
    def is_alive(self) -> bool:
        """Return True while the process runs."""
        return self.process.poll() is None


@contextmanager
def run_target(upstream: str, *, open_files: int | None = None, **settings: str | int | float) -> Generator[Target]:
    """Run a proxy in front of `upstream`, with these settings, and kill it at the end.

    Raises:
        RuntimeError: the proxy does not start.
    """
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        folder = Path(name)
        chosen = {"data_dir": str(folder / "data"), "port": 0, "model": "none"} | settings
        chosen = {"upstream_base_url": f"{upstream}/v1", "anthropic_base_url": f"{upstream}/v1"} | chosen
        env = {"PATH": os.defpath, "HOME": name, "LANG": "C.UTF-8"}
        env |= {f"CLARA_{key.upper()}": str(value) for key, value in chosen.items()}
        (folder / "holds.txt").touch()
        command = [
            sys.executable,
            "-m",
            "clara_proxy.benchmarks.attack.target",
            str(folder / "port"),
            str(folder / "holds.txt"),
        ]
        if open_files is not None:
            command = ["/bin/sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *command]
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
        target = Target(0, folder, process)
        try:
            target.port = _wait_for_port(target)
            yield target
        finally:
            process.kill()
            process.wait()


@cache
def get_shared_target() -> tuple[Target, Upstream]:
    """Return a proxy and its upstream that several modules attack; both end with this process.

    Starting a proxy costs more than most attacks. Only attacks that need no settings of their own share it.
    """
    stack = ExitStack()
    atexit.register(stack.close)
    upstream = stack.enter_context(run_upstream())
    target = stack.enter_context(run_target(upstream.url, client_timeout=2.0, deadline_ms=500))
    return target, upstream


def _wait_for_port(target: Target) -> int:
    deadline = time.monotonic() + START_SECONDS
    path = target.folder / "port"
    while not path.exists():
        if not target.is_alive or time.monotonic() > deadline:
            raise RuntimeError(f"the proxy did not start: {target.log[-300:]}")
        time.sleep(0.02)
    return int(path.read_text())


def _start_watchdog(path: Path) -> None:
    loop = asyncio.get_running_loop()
    previous = time.thread_time()

    def tick() -> None:
        nonlocal previous
        now = time.thread_time()
        if (hold := 1000 * (now - previous - TICK_SECONDS)) > HOLD_MS:
            with path.open("a") as file:
                file.write(f"{hold:.1f}\n")
        previous = time.thread_time()
        loop.call_later(TICK_SECONDS, tick)

    tick()


def main() -> None:
    """Serve until killed."""
    port_path, holds_path = map(Path, sys.argv[1:3])
    settings = load_settings()
    server = serve.Server(create_app(settings))
    listener = serve.bind_socket(settings.host, settings.port)

    def on_started() -> None:
        _start_watchdog(holds_path)
        port_path.with_suffix(".new").write_text(str(listener.getsockname()[1]))
        port_path.with_suffix(".new").rename(port_path)

    server.on_started = on_started
    serve.tune_interpreter()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
