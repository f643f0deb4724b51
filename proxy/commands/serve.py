"""Runs the proxy under uvicorn: one process, one event loop.

Invariant: a store that cannot be opened raises an exception instead of logging a traceback, and every request has its
row before the ledger closes, even if the shutdown is forced.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Awaitable, Callable, Generator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import uvicorn

from ...compression.models.resources import map_large_blocks
from ...config import client_environment
from ...config import settings as configuration
from ...config.settings import Settings
from ..access.origins import is_loopback
from ..app import Application, create_app
from ..http.server_limits import ServerLimits
from ..http.server_protocol import ServerProtocol
from ..reports.columns import format_requests
from ..stores import api_keys
from ..stores.ledger import ledger_url
from ..watch import shared_metrics
from . import banner, run_files, serve_processes
from .run_files import RunningProxy
from .serve_processes import ProcessGroup, ServerProcess

START_TIMEOUT = 30.0  # seconds
KEEP_ALIVE = 120  # seconds; longer than the pools of clients keep a connection, so that they close it
CANCELLATION_SECONDS = 1.0  # for a cancelled request to tell its client and to write its row
SWITCH_INTERVAL = 0.001  # seconds until a thread that computes yields to the event loop; Python's default is 0.005
log = logging.getLogger(__name__)


class UnprotectedAddressError(Exception):
    """Other machines can reach the proxy, no API key is required, and CLARA_OPEN is not set."""


def serve(settings: Settings, *, socket_path: Path | None = None, opens_dashboard: bool = False) -> None:
    """Serve until interrupted, on a TCP port or else on a Unix socket; a terminal gets a banner.

    Raises:
        OSError: the address cannot be bound.
        UnprotectedAddressError: other machines can reach the address, and no API key is required.
        KeyStoreError: other machines can reach the address, and the API keys cannot be read.
        StartupError: a resource of the proxy cannot be opened.
    """
    socket.getaddrinfo(settings.host, settings.port)  # reports an unknown host before the keys are checked
    if socket_path is None and asyncio.run(is_unprotected(settings)):
        raise UnprotectedAddressError
    serve_processes.check_settings(settings)
    gc.disable()  # what is loaded until the start stays in memory
    try:
        if settings.processes > 1:
            _serve_by_processes(settings, socket_path, opens_dashboard=opens_dashboard)
        else:
            _serve_by_this_process(settings, socket_path, opens_dashboard=opens_dashboard)
    finally:
        gc.enable()


def _serve_by_this_process(settings: Settings, socket_path: Path | None, *, opens_dashboard: bool) -> None:
    server = Server(create_app(settings))
    listener = _bind(settings, socket_path, server.resources)

    def handle_start() -> None:
        tune_interpreter()
        _announce(settings, listener, server.resources, opens_dashboard=opens_dashboard)

    server.on_started = handle_start
    server.run(sockets=[listener])


def _bind(settings: Settings, socket_path: Path | None, resources: AsyncExitStack | ExitStack) -> socket.socket:
    if socket_path is None:
        return bind_socket(settings.host, settings.port)
    listener = bind_unix_socket(socket_path)
    resources.callback(socket_path.unlink, missing_ok=True)
    return listener


def _serve_by_processes(settings: Settings, socket_path: Path | None, *, opens_dashboard: bool) -> None:
    with ExitStack() as stack:
        listener = _bind(settings, socket_path, stack)
        group = ProcessGroup(settings, listener, partial(_serve_process, settings))
        group.run(lambda: _announce(settings, listener, stack, opens_dashboard=opens_dashboard))
    if group.stop_signal is not None:
        signal.raise_signal(group.stop_signal)  # end as a single process does


def _serve_process(settings: Settings, process: ServerProcess) -> None:
    """Serve in one of several processes."""
    server = Server(create_app(settings))

    async def share_metrics(app: Application) -> None:
        sharing = shared_metrics.share_metrics(app.state.services.metrics, process.metrics_folder, process.number)
        await server.resources.enter_async_context(sharing)

    def handle_start() -> None:
        loop = asyncio.get_running_loop()

        def stop_without_parent() -> None:
            loop.remove_reader(process.alive)
            server.handle_exit(signal.SIGTERM, None)

        loop.add_reader(process.alive, stop_without_parent)
        tune_interpreter()
        os.write(process.ready, b"1")
        os.close(process.ready)

    server.on_opened, server.on_started = share_metrics, handle_start
    server.run(sockets=[process.listener])


def tune_interpreter() -> None:
    """Keep the event loop responsive: loaded modules are not garbage collected, and threads yield to it early."""
    gc.freeze()  # what is loaded so far stays in memory
    gc.set_threshold(20_000, 20, 50)
    gc.enable()
    sys.setswitchinterval(SWITCH_INTERVAL)
    map_large_blocks()


def serve_with_reload(settings: Settings) -> None:
    """Serve in a child process, which starts again whenever a source file changes; for developers.

    Raises:
        OSError: the address cannot be bound.
        UnprotectedAddressError: other machines can reach the address, and no API key is required.
        KeyStoreError: other machines can reach the address, and the API keys cannot be read.
    """
    if asyncio.run(is_unprotected(settings)):
        raise UnprotectedAddressError
    folders = [str(Path(__file__).parents[2] / name) for name in ("proxy", "compression", "config")]
    from uvicorn.supervisors import ChangeReload  # noqa: PLC0415 - only developers need it

    config = uvicorn.Config("", reload=True, reload_dirs=folders, log_config=None)
    listener = bind_socket(settings.host, settings.port)
    ChangeReload(config, target=partial(_serve_child, settings), sockets=[listener]).run()


def _serve_child(settings: Settings, sockets: list[socket.socket] | None = None) -> None:
    server = Server(create_app(settings))
    if sockets:
        server.on_started = lambda: _announce(settings, sockets[0], server.resources, opens_dashboard=False)
    tune_interpreter()
    server.run(sockets=sockets)


def _announce(
    settings: Settings, listener: socket.socket, resources: AsyncExitStack | ExitStack, *, opens_dashboard: bool
) -> None:
    """Tell the user and `clara-proxy ps` that the proxy is ready."""
    if listener.family == socket.AF_UNIX:
        path, url = str(listener.getsockname()), "http://localhost"
    else:
        host, port = listener.getsockname()[:2]
        path, url = None, f"http://{f'[{host}]' if ':' in host else host}:{port}"
        _warn_misconfiguration(settings, host, port)
    upstream, folder = client_environment.redact_url(settings.upstream_base_url), settings.data_dir.expanduser()
    address = url if path is None else f"unix:{path}"
    proxy = RunningProxy(os.getpid(), address, upstream, settings.mode, time.time())
    try:
        resources.enter_context(run_files.announce(run_files.locate_run_files(settings), proxy))
    except OSError as error:
        log.warning("`clara-proxy ps` will not list this proxy: %s", error)
    if sys.stderr.isatty():
        print(banner.render_banner(settings, url, upstream, path), file=sys.stderr)  # noqa: T201
    else:
        base_url = f"{url}/v1" if path is None else address
        log.info(
            "ready: OPENAI_BASE_URL=%s, upstream %s, dashboard %s/dashboard, data in %s",
            base_url,
            upstream,
            url,
            folder,
        )
    if opens_dashboard:
        threading.Thread(target=webbrowser.open, args=[f"{url}/dashboard"], daemon=True).start()


def _warn_misconfiguration(settings: Settings, host: str, port: int) -> None:
    """Log warnings about likely mistakes."""
    for name, suggestion in configuration.find_unknown_variables().items():
        log.warning("%s is not a setting%s", name, suggestion)
    if not is_loopback(host) and settings.open:
        log.warning(
            "listening on %s with CLARA_OPEN: every client that reaches this address is accepted until a key exists",
            host,
        )
    client_url = client_environment.read_client_upstreams().get("upstream_base_url")
    if client_url is None or "upstream_base_url" in settings.model_fields_set or _is_own_address(client_url, port):
        return
    log.warning(
        "OPENAI_BASE_URL=%s configures clients, not this proxy; requests go to %s. Use --upstream to change that",
        client_environment.redact_url(client_url),
        client_environment.redact_url(settings.upstream_base_url),
    )


def _is_own_address(url: str, port: int) -> bool:
    host, _, url_port = url.partition("://")[2].partition("/")[0].rpartition(":")
    return url_port == str(port) and is_loopback(host.strip("[]"))


@contextmanager
def run_in_thread(app: Callable[..., Any]) -> Generator[str]:
    """Serve an ASGI application on a free loopback port in a thread of its own; yields its base URL.

    Raises:
        TimeoutError: the server did not start within `START_TIMEOUT`.
        StartupError: the application is the proxy, and a resource of it cannot be opened.
    """
    listener = bind_socket("127.0.0.1", 0)
    server = Server(app)
    errors: list[Exception] = []

    def run() -> None:
        try:
            server.run(sockets=[listener])
        except Exception as error:
            if server.started:
                raise
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + START_TIMEOUT
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    if not server.started:
        listener.close()
        raise errors[0] if errors else TimeoutError("the server did not start")
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(START_TIMEOUT)


async def is_unprotected(settings: Settings) -> bool:
    """Return True if other machines can reach the address, no API key is required, and CLARA_OPEN is not set.

    Raises:
        KeyStoreError: the API keys cannot be read.
    """
    if is_loopback(settings.host) or settings.open:
        return False
    async with api_keys.open_key_store(ledger_url(settings.data_dir.expanduser(), settings.ledger_url)) as store:
        return all(key.revoked is not None for key in await store.list_keys())


class Server(uvicorn.Server):
    """uvicorn's server, which runs the lifespan of the application itself.

    uvicorn would log a traceback if the lifespan fails, end it while cancelled requests still write their rows, and not
    end it at all after a second interrupt. `on_started` is called once the server accepts requests; `resources` are
    closed once it has stopped. `on_opened` is called before, with the application, once its services are open.
    """

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app if isinstance(app, Application) else None
        settings = Settings() if self._app is None else self._app.state.settings
        assert isinstance(settings, Settings)
        self._drain_seconds = settings.drain_seconds
        self._limits = ServerLimits(settings.max_connections, settings.client_timeout)
        # Responses carry the upstream's own `date` and `server` headers; uvicorn must not add a second one.
        config = uvicorn.Config(
            app,
            lifespan="auto" if self._app is None else "off",
            log_config=None,  # the proxy configures logging
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            http=cast("type[asyncio.Protocol]", partial(ServerProtocol, limits=self._limits)),
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=cast("int", settings.drain_seconds),  # seconds, also fractions of one
        )
        super().__init__(config)
        logging.getLogger("uvicorn.error").addFilter(_is_worth_logging)
        self.resources = AsyncExitStack()
        self.on_opened: Callable[[Application], Awaitable[None]] = _do_nothing
        self.on_started: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the lifespan of the application, then accept requests."""
        if self._app is not None:
            await self.resources.enter_async_context(self._app.router.lifespan_context(self._app))
            self._app.state.services.metrics.refusals = self._limits.refusals
            await self.on_opened(self._app)
        await super().startup(sockets)
        sweep = asyncio.create_task(self._limits.sweep_connections(self.server_state.connections))
        self.resources.callback(sweep.cancel)
        self.on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting requests, wait for the running ones, and close everything."""
        if waiting := len(self.server_state.tasks):
            requests = format_requests(waiting)
            log.info("waiting up to %g s for %s; press Ctrl-C again to stop at once", self._drain_seconds, requests)
        watcher = asyncio.create_task(self._cancel_when_forced())
        try:
            await super().shutdown(sockets)
            await self._cancel_requests()  # requests that uvicorn has cancelled may still run
        finally:
            watcher.cancel()
            await self.resources.aclose()

    async def _cancel_when_forced(self) -> None:
        while not self.force_exit:  # noqa: ASYNC110 - set by a signal handler of uvicorn, without an event
            await asyncio.sleep(0.05)
        await self._cancel_requests()

    async def _cancel_requests(self) -> None:
        """Cancel the running requests. A cancelled request tells its client; a second cancellation stops that, too."""
        running = [task for task in self.server_state.tasks if not task.done()]
        for task in running:
            if not task.cancelling():
                task.cancel()
        if running:
            _, running_on = await asyncio.wait(running, timeout=CANCELLATION_SECONDS)
            for task in running_on:
                task.cancel()
            if running_on:
                await asyncio.wait(running_on, timeout=CANCELLATION_SECONDS)


async def _do_nothing(_: Application) -> None:
    """Stand for a function that is not set."""


def _is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for what is logged elsewhere: a cancelled request, an invalid one, and an offer of HTTP/2."""
    if record.msg in ("Unsupported upgrade request.", "Invalid HTTP request received."):
        return False
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet; port 0 takes a free one.

    Clients are refused until the server listens, which it does once its stores are open.

    Raises:
        OSError: the address cannot be bound, or another process listens on it.
    """
    with _bind_address(host, port) as probe:
        probe.listen()  # only this reports that another process listens: `SO_REUSEADDR` lets both bind
        port = probe.getsockname()[1]
    return _bind_address(host, port)


def _bind_address(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def bind_unix_socket(path: Path) -> socket.socket:
    """Return a listening Unix socket that only its owner can open; an abandoned socket is replaced.

    Raises:
        OSError: the path is in use, is no socket, or cannot be created.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and listener.connect_ex(str(path)):
            path.unlink()
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener
