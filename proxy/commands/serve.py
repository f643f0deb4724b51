"""Runs the proxy under uvicorn: one process, one event loop."""

import asyncio
import gc
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ...config.settings import Settings
from ..app import create_app
from ..places import is_loopback
from ..services import ledger_url
from ..stores import keys

PATIENCE = 30.0  # seconds until a server must be up
log = logging.getLogger(__name__)


class OpenToAllError(Exception):
    """The proxy would be there for everybody who can reach it, and nobody said that it should be."""


def serve(settings: Settings) -> None:
    """Serve until interrupted.

    Raises:
        OSError: the address cannot be bound.
        OpenToAllError: others can reach the address, nobody needs a key, and nobody said that this is meant.
        KeysError: others can reach the address, and it cannot be told whether there are keys.
    """
    if not is_loopback(settings.host) and not settings.open and not asyncio.run(_has_keys(settings)):
        raise OpenToAllError
    server = _server(create_app(settings))
    listener = bound(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    if not is_loopback(host) and settings.open:
        log.warning("listening on %s, and open: without keys, whoever can reach this address can use the proxy", host)
    log.info("ready: OPENAI_BASE_URL=http://%s:%s/v1", f"[{host}]" if ":" in host else host, port)
    # What is loaded by now stays; the collector need not walk it for every few hundred messages.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    server.run(sockets=[listener])


@contextmanager
def running(app: Callable[..., Any]) -> Generator[str]:
    """Serve any ASGI application on a free loopback port in a thread of its own; yields its base URL.

    Raises:
        TimeoutError: it did not start.
    """
    listener = bound("127.0.0.1", 0)
    server = _server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    if not server.started:
        raise TimeoutError("the server did not start")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


async def _has_keys(settings: Settings) -> bool:
    async with keys.opened(ledger_url(settings.data_dir.expanduser(), settings.ledger_url)) as kept:
        return any(key.revoked is None for key in await kept.all())


def _server(app: Callable[..., Any]) -> uvicorn.Server:
    # The upstream's own `date` and `server` headers come back to the client; uvicorn must not add a second one.
    config = uvicorn.Config(
        app,
        log_config=None,  # its records go where ours go
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener
