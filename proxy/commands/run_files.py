"""The files that name the running proxies of a data directory, for `clara-proxy ps` and `stop`.

Each proxy locks a file of its own while it runs; the system releases the lock however the process ends. So a file
without a lock belongs to a process that was killed, and is removed.
"""

import fcntl
import json
import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ...config.settings import Settings

_FOLDER = "running"
_POLL_SECONDS = 0.05


class RunningProxy(NamedTuple):
    """A running proxy: its process, its base URL, its upstream without credentials, and its start in Unix seconds."""

    pid: int
    url: str
    upstream: str
    mode: str
    started: float


def locate_run_files(settings: Settings) -> Path:
    """Return the folder of the files; it may not exist."""
    return settings.data_dir.expanduser() / _FOLDER


@contextmanager
def announce(folder: Path, proxy: RunningProxy) -> Generator[None]:
    """Name this process as a running proxy for the duration of the block.

    Raises:
        OSError: the file cannot be written.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{proxy.pid}.json"
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(proxy._asdict(), file)
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def find_running(folder: Path) -> Iterator[RunningProxy]:
    """Yield the running proxies, the oldest first; removes the files of killed processes."""
    proxies = (_read_if_locked(path) for path in folder.glob("*.json"))
    yield from sorted((proxy for proxy in proxies if proxy is not None), key=lambda proxy: proxy.started)


def wait_until_stopped(folder: Path, pid: int, timeout: float) -> bool:
    """Return True as soon as this proxy has stopped, False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while any(proxy.pid == pid for proxy in find_running(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _read_if_locked(path: Path) -> RunningProxy | None:
    try:
        with path.open("r+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return RunningProxy(**json.load(file))
            if os.fstat(file.fileno()).st_size:  # an empty file is just being written
                path.unlink(missing_ok=True)
    except (OSError, ValueError, TypeError):
        pass
    return None
