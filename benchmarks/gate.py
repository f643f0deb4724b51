"""What the gate costs: the same requests past it, through it without keys, and through it with a key and its limits.

All three are in one process before one upstream double and take turns, so that what else the machine does hits all
alike; requests come as an ASGI server hands them over, so that the server's own share, the same for all, is left out
and the gate's looks larger than it is. Processor time is the steadiest figure; of the rounds the quietest tenth counts,
as noise only ever adds.

`python -m clara_proxy.benchmarks.gate [--rounds 200] [--requests 40]`
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
ISOLATED_REQUESTS = 20_000  # requests through a gate that leads nowhere
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
    named = {**_REQUEST_HEADERS, "authorization": f"Bearer {key}"}
    path = "/v1/chat/completions"
    return {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"", "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "server": ("127.0.0.1", 8765), "client": ("127.0.0.1", 5), "scheme": "http",
    }  # fmt: skip


async def _send_request(app: App, key: str, body: bytes) -> None:
    told: list[Message] = []
    came: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return came.pop() if came else await asyncio.Future()  # who waits for the client's leaving waits

    async def send(message: Message) -> None:
        told.append(message)

    await app(_build_scope(key), receive, send)
    if told[0]["status"] != 200:
        raise RuntimeError(f"an answer with status {told[0]['status']}")


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
    async with api_keys.open_key_store(ledger_url(folder)) as kept:
        await kept.add(key._replace(requests_per_minute=10**6, tokens_per_day=10**12))
    return text


async def _measure_middleware(app: Application, key: str) -> float:
    """Microseconds of processor time that the gate takes by itself."""

    async def nothing(_build_scope: Scope, _receive: object, _send: object) -> None:
        pass

    services = app.state.services
    gate = AccessMiddleware(nothing, services.settings, services.keyring, services.ledger, ["/v1/chat/completions"])
    scopes = [_build_scope(key) for _ in range(ISOLATED_REQUESTS)]
    began = time.process_time()
    for scope in scopes:
        await gate(scope, nothing, nothing)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return (time.process_time() - began) / ISOLATED_REQUESTS * 1e6


async def measure_overhead(upstream: str, rounds: int, requests: int) -> dict[str, object]:
    """Ask in turns; return processor time a request in microseconds, the share that is the gate's, and it alone."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        key, body = await _create_key(Path(two)), build_chat(SMALL, streamed=False)
        async with _open_app(Path(one), upstream) as free, _open_app(Path(two), upstream) as keyed:
            ways: dict[str, tuple[App, str]] = {
                "past the gate": (free.route_request, "sk-bench"),
                "through it, no keys": (free, "sk-bench"),
                "through it, a key with limits": (keyed, key),
            }
            taken: dict[str, list[float]] = {name: [] for name in ways}
            names = list(ways)
            for _ in range(rounds):
                random.shuffle(names)
                for name in names:
                    app, shown = ways[name]
                    began = time.process_time()
                    for _ in range(requests):
                        await _send_request(app, shown, body)
                    for each in (free, keyed):  # so that nobody pays for the rows of others
                        await each.state.services.ledger.flush()
                    taken[name].append((time.process_time() - began) / requests * 1e6)
            alone = {
                "no keys": await _measure_middleware(free, "sk-bench"),
                "a key": await _measure_middleware(keyed, key),
            }
    quiet = {name: statistics.quantiles(figures, n=10)[0] for name, figures in taken.items()}
    past = quiet["past the gate"]
    return {"cpu_us": quiet, "ratio": {name: us / past for name, us in quiet.items()}, "gate_alone_us": alone}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--requests", type=int, default=40)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    port = find_free_port()
    with run_server(build_double_command(port)):
        found: Any = asyncio.run(measure_overhead(f"http://127.0.0.1:{port}/v1", options.rounds, options.requests))
    for name, us in found["cpu_us"].items():
        print(f"  {name:32} {us:8.1f} us of processor time a request, {found['ratio'][name]:.3f}")
    for name, us in found["gate_alone_us"].items():
        print(f"  the gate by itself, {name:12} {us:8.1f} us")
    print(json.dumps({"benchmark": "gate", **found}))


if __name__ == "__main__":
    main()
