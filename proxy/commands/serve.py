"""Runs the proxy under uvicorn: one process, one event loop.

The invariant: what cannot be opened is an exception here and no traceback in the log, and what was begun has its row in
the ledger before that is closed, also when somebody is in a hurry.
"""

import asyncio
import gc
import logging
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI

from ...config import client_environment
from ...config import settings as configuration
from ...config.settings import Settings
from ..access.origins import is_loopback
from ..app import create_app
from ..stores import api_keys
from ..stores.ledger import ledger_url

START_TIMEOUT = 30.0  # seconds until a server must be up
SHUTDOWN_GRACE = 10  # seconds that requests have to come to their end
log = logging.getLogger(__name__)


class UnprotectedAddressError(Exception):
    """The proxy would be there for everybody who can reach it, and nobody said that it should be."""


def serve(settings: Settings) -> None:
    """Serve until interrupted.

    Raises:
        OSError: the address cannot be bound.
        OpenToAllError: others can reach the address, nobody needs a key, and nobody said that this is meant.
        KeysError: others can reach the address, and it cannot be told whether there are keys.
        StartError: something that the proxy needs cannot be opened.
    """
    socket.getaddrinfo(settings.host, settings.port)  # what stands for no address is nobody's to reach
    if asyncio.run(is_unprotected(settings)):
        raise UnprotectedAddressError
    server = Server(create_app(settings))
    listener = bind_socket(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    _warn_misconfiguration(settings, host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    upstream, folder = client_environment.redact_url(settings.upstream_base_url), settings.data_dir.expanduser()
    ready = f"ready: OPENAI_BASE_URL={url}/v1, upstream {upstream}, dashboard {url}/dashboard, data in {folder}"
    server.on_started = lambda: log.info("%s", ready)
    # What is loaded by now stays; the collector need not walk it for every few hundred messages.
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    server.run(sockets=[listener])


def _warn_misconfiguration(settings: Settings, host: str, port: int) -> None:
    """Say what is most likely not meant."""
    for name in configuration.find_unknown_variables():
        log.warning("no setting reads %s: see the table in docs/settings.md", name)
    if not is_loopback(host) and settings.open:
        log.warning("listening on %s, and open: without keys, whoever can reach this address can use the proxy", host)
    named = client_environment.read_client_upstreams().get("upstream_base_url")
    if named is not None and "upstream_base_url" not in settings.model_fields_set and not _is_own_address(named, port):
        said = client_environment.redact_url(named), client_environment.redact_url(settings.upstream_base_url)
        log.warning("OPENAI_BASE_URL=%s is for clients: requests go to %s until --upstream says otherwise", *said)


def _is_own_address(url: str, port: int) -> bool:
    host, _, named = url.partition("://")[2].partition("/")[0].rpartition(":")
    return named == str(port) and is_loopback(host.strip("[]"))


@contextmanager
def run_in_thread(app: Callable[..., Any]) -> Generator[str]:
    """Serve any ASGI application on a free loopback port in a thread of its own; yields its base URL.

    Raises:
        TimeoutError: it did not start.
        StartError: the application is the proxy, and something that it needs cannot be opened.
    """
    listener = bind_socket("127.0.0.1", 0)
    server = Server(app)
    failed: list[Exception] = []

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except Exception as error:
            if server.started:
                raise
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    if not server.started:
        listener.close()
        raise failed[0] if failed else TimeoutError("the server did not start")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT)


async def is_unprotected(settings: Settings) -> bool:
    """Say whether whoever can reach the address could use the proxy, and nobody said that this is meant.

    Raises:
        KeysError: it cannot be told whether there are keys.
    """
    if is_loopback(settings.host) or settings.open:
        return False
    async with api_keys.open_key_store(ledger_url(settings.data_dir.expanduser(), settings.ledger_url)) as kept:
        return all(key.revoked is not None for key in await kept.list_keys())


class Server(uvicorn.Server):
    """uvicorn's server of any ASGI application; what one of FastAPI needs is opened and closed here.

    uvicorn itself would log a traceback where that fails, close it while cancelled requests still write their rows, and
    not close it at all when interrupted twice. `when_started` is called as soon as requests are taken.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app if isinstance(app, FastAPI) else None
        # The upstream's own `date` and `server` headers come back to the client; uvicorn must not add a second one.
        config = uvicorn.Config(
            app,
            lifespan="auto" if self._app is None else "off",
            log_config=None,  # its records go where ours go
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=SHUTDOWN_GRACE,
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_not_cancellation)
        self._resources = AsyncExitStack()
        self.on_started: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open what the application needs, then take requests."""
        if self._app is not None:
            await self._resources.enter_async_context(self._app.router.lifespan_context(self._app))
        await super().startup(sockets)
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, let those that run come to their end, and close everything."""
        if waiting := len(self.server_state.tasks):
            requests = "1 request" if waiting == 1 else f"{waiting} requests"
            log.info("waiting up to %d s for %s; Ctrl-C again stops at once", SHUTDOWN_GRACE, requests)
        hurrying = asyncio.create_task(self._cancel_when_forced())
        try:
            await super().shutdown(sockets)
            await self._cancel_requests()  # what uvicorn has cancelled by now has not ended yet
        finally:
            hurrying.cancel()
            await self._resources.aclose()

    async def _cancel_when_forced(self) -> None:
        while not self.force_exit:  # noqa: ASYNC110 - a signal handler of uvicorn's sets it, and nothing tells of it
            await asyncio.sleep(0.05)
        await self._cancel_requests()

    async def _cancel_requests(self) -> None:
        running = [task for task in self.server_state.tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1)


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """Say whether a record tells more than that a request was cancelled, as is told before it is."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def bind_socket(host: str, port: int) -> socket.socket:
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
