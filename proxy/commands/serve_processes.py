"""Serves one port by several processes: a parent that starts, watches and stops them, and N forked servers.

The parent loads modules and vocabularies before it forks, so that the servers share that memory. They accept
connections on one inherited socket and share the stores, as replicas do. The parent answers no requests and runs no
threads. A server that dies is replaced; one that loses its parent stops.
"""

import gc
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from ...config import log_setup
from ...config.settings import Settings
from ..runtime import local_model
from ..runtime.preload import preload
from ..stores.errors import StartupError

RESTART_SECONDS = 1.0  # between two starts of the same server, if it keeps dying
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger(__name__)


class ServerProcess(NamedTuple):
    """What a server process is given: the shared socket, its number, and the folder in which all put their metrics.

    `alive` is the reading end of a pipe that ends with the parent, `ready` the writing end of one that waits for the
    server's start.
    """

    listener: socket.socket
    number: int
    metrics_folder: Path
    alive: int
    ready: int


def check_settings(settings: Settings) -> None:
    """Check that several processes can serve with these settings.

    Raises:
        StartupError: each process would load a local model of its own.
    """
    if settings.processes > 1 and local_model.resolve_local_model(settings) and not local_model.is_remote(settings):
        raise StartupError(
            "each of several processes would load the CLaRa model; run it in a process of its own (`clara-server`) and"
            " set CLARA_BACKEND to its URL, or unset CLARA_MODEL, or set CLARA_PROCESSES=1"
        )


class ProcessGroup:
    """The parent of the servers. `run_server` serves in a forked process until it is told to stop."""

    def __init__(
        self, settings: Settings, listener: socket.socket, run_server: Callable[[ServerProcess], None]
    ) -> None:
        self._settings, self._listener, self._run_server = settings, listener, run_server
        self._pids: dict[int, int] = {}  # the index of each running server by its process id
        self._started: dict[int, float] = {}
        self.stop_signal: signal.Signals | None = None
        self._alive, self._alive_writer = os.pipe()

    def run(self, announce: Callable[[], None]) -> None:
        """Start the servers, call `announce`, and replace servers that die, until `stop_signal` stops all of them.

        Raises:
            SystemExit: the first server did not start; it has reported why.
        """
        log_setup.configure_logging(self._settings.log_level, self._settings.log_format)
        preload({model.litellm for model in self._settings.models})
        gc.collect()
        gc.freeze()  # the collector of a server must not write to shared pages
        previous = {number: signal.signal(number, self._handle_signal) for number in STOP_SIGNALS}
        with tempfile.TemporaryDirectory(prefix="clara-proxy-") as name:
            folder = Path(name)
            self._start_all(folder)
            if self.stop_signal is None:
                announce()
            self._watch(folder)
        for number, handler in previous.items():
            signal.signal(number, handler)

    def _start_all(self, folder: Path) -> None:
        # The first one creates or migrates the stores.
        for index in range(self._settings.processes):
            if self.stop_signal is not None:
                return
            pid, is_ready = self._start(index, folder)
            if not is_ready and self.stop_signal is None:
                _, status = os.waitpid(pid, 0)
                del self._pids[pid]
                self._signal_all(signal.SIGTERM)
                self._reap_all()
                sys.exit(os.waitstatus_to_exitcode(status) or 1)

    def _start(self, index: int, folder: Path) -> tuple[int, bool]:
        """Fork a server. Return its process id, and True once it accepts requests, False if it has ended instead."""
        assert threading.active_count() == 1, "a fork would copy the locks of other threads"
        ready, ready_writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            os.close(self._alive_writer)
            self._serve(ServerProcess(self._listener, index, folder, self._alive, ready_writer))
        os.close(ready_writer)
        self._pids[pid], self._started[index] = index, time.monotonic()
        if self.stop_signal is not None:  # the signal came before the process was known
            os.kill(pid, signal.SIGTERM)
        with os.fdopen(ready, "rb") as pipe:
            return pid, bool(pipe.read(1))

    def _serve(self, process: ServerProcess) -> NoReturn:
        os.setpgid(0, 0)  # Ctrl-C reaches the parent alone, which forwards it
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        status = 1
        try:
            self._run_server(process)
            status = 0
        except StartupError as error:
            print(f"clara-proxy: {error}", file=sys.stderr)  # noqa: T201 - as the command line does
            status = 2
        except Exception:
            log.exception("a server process failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _watch(self, folder: Path) -> None:
        while self._pids:
            pid, status = os.waitpid(-1, 0)
            index = self._pids.pop(pid, None)
            if index is None or self.stop_signal is not None:
                continue
            code = os.waitstatus_to_exitcode(status)
            log.error("server process %d of the proxy ended (status %d); another one takes its place", pid, code)
            time.sleep(max(0.0, self._started[index] + RESTART_SECONDS - time.monotonic()))
            if self.stop_signal is None:
                self._start(index, folder)

    def _reap_all(self) -> None:
        while self._pids:
            pid, _ = os.waitpid(-1, 0)
            self._pids.pop(pid, None)

    def _handle_signal(self, number: int, _frame: FrameType | None) -> None:
        # A server stops at once at a second SIGINT, and gracefully at any other signal.
        is_repeated = self.stop_signal is not None
        self.stop_signal = signal.Signals(number)
        self._signal_all(signal.SIGINT if is_repeated and number == signal.SIGINT else signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in list(self._pids):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
