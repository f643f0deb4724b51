"""The processes a load benchmark runs: started in a session of their own, watched through /proc, always killed.

Linux only. The invariant: what `running` has started is gone when it returns, whatever happened in between. A target
sees a bare environment, so that no key, proxy or setting of whoever runs the benchmark reaches it.
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
    """How a target is started; `env` is all it sees beside PATH and HOME."""

    name: str
    argv: Sequence[str]
    port: int
    env: Mapping[str, str] = {}
    timeout_s: float = 90.0


class Server(NamedTuple):
    """A running target. `ready_s`: from its start to its first good answer."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    ready_s: float


def find_free_port() -> int:
    """A port of 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def build_module_command(name: str, *arguments: str) -> list[str]:
    """The command line that runs one of these benchmarks under this interpreter."""
    return [sys.executable, "-m", f"clara_proxy.benchmarks.{name}", *arguments]


def build_double_command(port: int) -> Command:
    """The upstream double."""
    return Command("double", build_module_command("double", "--port", str(port)), port)


def handle_stop_signals() -> None:
    """Make SIGTERM end the program as Ctrl-C does, and both do so in the background too, so that targets are killed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


# --- /proc ---


class Process(NamedTuple):
    """One process of a target: its id, processor time so far in seconds, resident memory in MB."""

    pid: int
    cpu_s: float
    rss_mb: float


def iter_processes(leader: int) -> Iterator[Process]:
    """The processes in the session that `leader` started."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # what follows the name in brackets: state, parent, group, session, ...; see proc(5), counted from field 3
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
            if fields and fields[3] == str(leader):
                cpu = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
                yield Process(int(entry.name), cpu, int(fields[21]) * _PAGE_BYTES / 1e6)


def read_cpu_seconds(server: Server) -> float:
    """Processor time of all the target's processes so far."""
    return sum(process.cpu_s for process in iter_processes(server.process.pid))


def read_rss_mb(server: Server) -> float:
    """Resident memory of all the target's processes, MB; a page shared by two counts twice."""
    return sum(process.rss_mb for process in iter_processes(server.process.pid))


def wait_until_idle(server: Server, timeout_s: float = 30.0) -> None:
    """Wait until the target has stopped working for clients that are gone, so that the next target is not slowed."""
    limit = time.monotonic() + timeout_s
    while time.monotonic() < limit:
        before = read_cpu_seconds(server)
        time.sleep(0.1)
        if read_cpu_seconds(server) - before <= 0.02:
            return


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    for member in list(iter_processes(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)
    process.wait()


# --- starting ---


def is_answering(url: str) -> bool:
    """Whether a small chat completion comes back as one."""
    request = urllib.request.Request(url, build_chat("1 KB", streamed=False), _HEADERS)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return bool(json.load(response)["choices"])
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError, KeyError):
        return False


def _wait_for_answer(process: subprocess.Popen[bytes], url: str, patience_s: float) -> None:
    limit = time.monotonic() + patience_s
    while not is_answering(url):
        if process.poll() is not None:
            raise RuntimeError("it ended")
        if time.monotonic() > limit:
            raise RuntimeError(f"no good answer in {patience_s:.0f} s")
        time.sleep(0.02)


@contextlib.contextmanager
def run_server(command: Command) -> Generator[Server]:
    """Start a target, wait for its first answer, kill all its processes in the end. Its output: .bench/NAME.log.

    Raises RuntimeError when it ends by itself or does not answer in time.
    """
    url = f"http://127.0.0.1:{command.port}/v1/chat/completions"
    BENCH.mkdir(exist_ok=True)
    env = {"PATH": os.defpath, "HOME": str(BENCH), "LANG": "C.UTF-8", **command.env}
    path = BENCH / f"{command.name.replace(' ', '-')}.log"
    began = time.monotonic()
    with path.open("wb") as log:
        process = subprocess.Popen(command.argv, env=env, stdout=log, stderr=log, start_new_session=True, cwd=BENCH)
    try:
        _wait_for_answer(process, url, command.timeout_s)
        yield Server(command.name, url, process, time.monotonic() - began)
    finally:
        _kill_session(process)


def try_to_start(stack: contextlib.ExitStack, command: Command) -> Server | None:
    """The target, ended with `stack`; None, said on stderr, when it does not come up."""
    try:
        return stack.enter_context(run_server(command))
    except (RuntimeError, FileNotFoundError) as error:
        print(f"left out: {command.name}: {error} (see .bench/*.log)", file=sys.stderr)
        return None


def find_wrk() -> str:
    """The path of wrk; ends the program with a hint where there is none."""
    if not (path := shutil.which("wrk")):
        raise SystemExit("wrk is not installed (Debian and Ubuntu: apt-get install wrk)")
    return path
