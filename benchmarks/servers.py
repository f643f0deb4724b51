"""Run the server processes of the load benchmarks (Linux only).

Each target runs in its own session and is measured through /proc. `run_server` always kills all processes of the
session. A target gets a minimal environment, so API keys, proxies and settings of the calling shell do not reach it.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from .load import BENCH, build_chat

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-bench"}


class Command(NamedTuple):
    """A target's command line; `env` is its environment besides PATH, HOME and LANG."""

    name: str
    argv: Sequence[str]
    port: int
    env: Mapping[str, str] = {}
    timeout_s: float = 90.0


class Server(NamedTuple):
    """A running target; `ready_s` is the time from its start to its first correct answer, in seconds."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    ready_s: float


def find_free_port() -> int:
    """Return a free TCP port of 127.0.0.1."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def build_module_command(name: str, *arguments: str) -> list[str]:
    """Return the command line of a module of this folder, with this interpreter."""
    return [sys.executable, "-m", f"clara_proxy.benchmarks.{name}", *arguments]


def build_double_command(port: int) -> Command:
    """Return the command of the upstream double."""
    return Command("double", build_module_command("double", "--port", str(port)), port)


def handle_stop_signals() -> None:
    """Handle SIGTERM like Ctrl-C, also in background jobs, so that the targets are killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


# --- /proc ---


class Process(NamedTuple):
    """One process of a target: its id, processor time in seconds, and resident memory in MB."""

    pid: int
    cpu_s: float
    rss_mb: float


def iter_processes(leader: int) -> Iterator[Process]:
    """Yield the processes of the session of process `leader`."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # proc(5): the fields after the name in brackets, from field 3 (state, parent, group, session, ...)
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
            if fields and fields[3] == str(leader):
                cpu = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
                yield Process(int(entry.name), cpu, int(fields[21]) * _PAGE_BYTES / 1e6)


def read_cpu_seconds(server: Server) -> float:
    """Return the processor time of all the target's processes in seconds."""
    return sum(process.cpu_s for process in iter_processes(server.process.pid))


def read_rss_mb(server: Server) -> float:
    """Return the resident memory of all the target's processes in MB; a page shared by two of them counts twice."""
    return sum(process.rss_mb for process in iter_processes(server.process.pid))


def wait_until_idle(server: Server, timeout_s: float = 30.0) -> None:
    """Wait until the target has finished the requests of disconnected clients, at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        before = read_cpu_seconds(server)
        time.sleep(0.1)
        if read_cpu_seconds(server) - before <= 0.02:
            return


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """Kill all processes of the session that `process` leads."""
    for member in list(iter_processes(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)
    process.wait()


# --- starting ---


def is_answering(url: str) -> bool:
    """Return True if the server answers a small chat completion with choices."""
    request = urllib.request.Request(url, build_chat("1 KB", streamed=False), _HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return bool(json.load(response)["choices"])
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError, KeyError):
        return False


def _wait_for_answer(process: subprocess.Popen[bytes], url: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_answering(url):
        if process.poll() is not None:
            raise RuntimeError(f"the process exited with code {process.returncode}")
        if time.monotonic() > deadline:
            raise RuntimeError(f"no correct answer within {timeout_s:.0f} s")
        time.sleep(0.02)


@contextlib.contextmanager
def run_server(command: Command) -> Generator[Server]:
    """Start a target, wait for its first answer, and kill all its processes at the end. Its log is .bench/NAME.log.

    Raises:
        RuntimeError: the process exits or does not answer in time.
    """
    url = f"http://127.0.0.1:{command.port}/v1/chat/completions"
    BENCH.mkdir(exist_ok=True)
    env = {"PATH": os.defpath, "HOME": str(BENCH), "LANG": "C.UTF-8", **command.env}
    path = BENCH / f"{command.name.replace(' ', '-')}.log"
    start = time.monotonic()
    with path.open("wb") as log:
        process = subprocess.Popen(command.argv, env=env, stdout=log, stderr=log, start_new_session=True, cwd=BENCH)
    try:
        _wait_for_answer(process, url, command.timeout_s)
        yield Server(command.name, url, process, time.monotonic() - start)
    finally:
        kill_session(process)


def try_to_start(stack: contextlib.ExitStack, command: Command) -> Server | None:
    """Return the started target, or None after a message on stderr if it does not start. `stack` ends it."""
    try:
        return stack.enter_context(run_server(command))
    except (RuntimeError, FileNotFoundError) as error:
        print(f"skipped {command.name}: {error} (see .bench/*.log)", file=sys.stderr)
        return None


def find_wrk() -> str:
    """Return the path of wrk, or exit with a message if it is not installed."""
    if not (path := shutil.which("wrk")):
        raise SystemExit("wrk is not installed; install it (Debian and Ubuntu: apt-get install wrk) and try again")
    return path
