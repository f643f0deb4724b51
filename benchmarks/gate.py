"""Measure the cost of the access checks: requests without them, without keys, and with a key that has limits.

    python -m clara_proxy.benchmarks.gate [--rounds 200] [--requests 40]

The three cases take turns in one process before one upstream double, to spread the noise of the machine. Requests are
ASGI calls without a server, so the share of the checks is larger than in production. The figures are processor time,
at the first decile of the rounds because noise only adds time. The last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import random
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..config.settings import Settings
from ..proxy.access.middleware import AccessMiddleware
from ..proxy.app import Application, create_app
from ..proxy.http.exchange import Message, Scope
from ..proxy.stores import api_keys
from ..proxy.stores.ledger import ledger_url
from .load import SMALL, build_chat
from .servers import build_double_command, find_free_port, run_server

App = Callable[..., Awaitable[None]]
ISOLATED_REQUESTS = 20_000  # requests through the middleware alone
CASE_LABELS = {  # by JSON key
    "past the gate": "without access checks",
    "through it, no keys": "access checks, no keys",
    "through it, a key with limits": "access checks, a key with limits",
}
_REQUEST_HEADERS = {
    "host": "127.0.0.1:8765",
    "user-agent": "OpenAI/Python 2.54.0",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "content-type": "application/json",
    "connection": "keep-alive",
    **{f"x-stainless-{name}": "x" for name in ("lang", "os", "arch", "runtime", "async", "retry-count", "timeout")},
}


def _build_scope(key: str) -> Scope:
    headers = {**_REQUEST_HEADERS, "authorization": f"Bearer {key}"}
    path = "/v1/chat/completions"
    return {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "server": ("127.0.0.1", 8765), "client": ("127.0.0.1", 5), "scheme": "http",
    }  # fmt: skip


async def _send_request(app: App, key: str, body: bytes) -> None:
    response: list[Message] = []
    incoming: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return incoming.pop() if incoming else await asyncio.Future()  # the client never disconnects

    async def send(message: Message) -> None:
        response.append(message)

    await app(_build_scope(key), receive, send)
    if response[0]["status"] != 200:
        raise RuntimeError(f"expected status 200, got {response[0]['status']}")


@asynccontextmanager
async def _open_app(folder: Path, upstream: str) -> AsyncGenerator[Application]:
    settings = Settings(
        upstream_base_url=upstream, upstream_api_key="sk-up", data_dir=folder, model="none", log_level="error"
    )
    app: Any = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


async def _create_key(folder: Path) -> str:
    text, key = api_keys.create_key("bench", created=time.time())
    async with api_keys.open_key_store(ledger_url(folder)) as store:
        await store.add(key._replace(requests_per_minute=10**6, tokens_per_day=10**12))
    return text


async def _measure_middleware(app: Application, key: str) -> float:
    """Return the processor time of the middleware alone, in microseconds a request."""

    async def do_nothing(_scope: Scope, _receive: object, _send: object) -> None:
        pass

    services = app.state.services
    paths = ["/v1/chat/completions"]
    middleware = AccessMiddleware(do_nothing, services.settings, services.keyring, services.ledger, paths)
    scopes = [_build_scope(key) for _ in range(ISOLATED_REQUESTS)]
    start = time.process_time()
    for scope in scopes:
        await middleware(scope, do_nothing, do_nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return (time.process_time() - start) / ISOLATED_REQUESTS * 1e6


async def measure_overhead(upstream: str, rounds: int, requests: int) -> dict[str, object]:
    """Return, by case, the processor time a request in microseconds and its ratio, and the middleware's own time."""
    with tempfile.TemporaryDirectory() as open_folder, tempfile.TemporaryDirectory() as keyed_folder:
        key, body = await _create_key(Path(keyed_folder)), build_chat(SMALL, streamed=False)
        async with _open_app(Path(open_folder), upstream) as free, _open_app(Path(keyed_folder), upstream) as keyed:
            cases: dict[str, tuple[App, str]] = {
                "past the gate": (free.route_request, "sk-bench"),
                "through it, no keys": (free, "sk-bench"),
                "through it, a key with limits": (keyed, key),
            }
            times: dict[str, list[float]] = {name: [] for name in cases}
            names = list(cases)
            for _ in range(rounds):
                random.shuffle(names)
                for name in names:
                    app, bearer = cases[name]
                    start = time.process_time()
                    for _ in range(requests):
                        await _send_request(app, bearer, body)
                    for application in (free, keyed):  # each case pays for its own ledger rows
                        await application.state.services.ledger.flush()
                    times[name].append((time.process_time() - start) / requests * 1e6)
            isolated = {
                "no keys": await _measure_middleware(free, "sk-bench"),
                "a key": await _measure_middleware(keyed, key),
            }
    deciles = {name: statistics.quantiles(values, n=10)[0] for name, values in times.items()}
    ratios = {name: us / deciles["past the gate"] for name, us in deciles.items()}
    return {"cpu_us": deciles, "ratio": ratios, "gate_alone_us": isolated}


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="rounds, at least two")
    parser.add_argument("--requests", type=int, default=40, help="requests of each case in a round")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    port = find_free_port()
    with run_server(build_double_command(port)):
        figures: Any = asyncio.run(measure_overhead(f"http://127.0.0.1:{port}/v1", options.rounds, options.requests))
    print(f"{'case':36}{'cpu us a request':>18}{'ratio':>8}")
    for name, us in figures["cpu_us"].items():
        print(f"{CASE_LABELS[name]:36}{us:18.1f}{figures['ratio'][name]:8.3f}")
    for name, us in figures["gate_alone_us"].items():
        print(f"{f'middleware alone, {name}':36}{us:18.1f}")
    print(json.dumps({"benchmark": "gate", **figures}))


if __name__ == "__main__":
    main()
