"""Measure the latency of plain proxied requests while CLaRa is idle, loads, encodes and answers.

    python -m clara_proxy.benchmarks.clara_latency
    python -m clara_proxy.benchmarks.clara_latency --model /data/checkpoint --base /data/base --dtype int8

A proxy and an upstream double run as processes of their own. One client sends small chat completions one after
another, at most 100 a second, while another client unloads CLaRa and lets it load, encode and answer. Prints a table of
the latencies by phase. The last line is JSON.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from .load import build_chat
from .peers import CLARA_NAME, build_clara_command
from .servers import Server, build_double_command, find_free_port, run_server

_HEADERS = {"content-type": "application/json", "authorization": "Bearer sk-bench"}
_INTERVAL = 0.01  # seconds between requests
PHASES = ("idle", "first load", "loading", "encoding", "answering")
_WORDS = [
    "the",
    "fox",
    "river",
    "stone",
    "bridge",
    "lamp",
    "works",
    "as",
    "an",
    "engineer",
    "and",
    "likes",
    "green",
    "fields",
    "in",
    "Paris",
    "since",
    "spring",
]


class Client:
    """Sends plain requests at a steady rate, and collects their milliseconds by phase."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.phase, self.times = "", dict[str, list[float]]()

    async def run(self) -> None:
        """Send requests until cancelled."""
        body = build_chat("1 KB", streamed=False)
        async with httpx.AsyncClient(timeout=60) as client:
            while True:
                started, phase = time.perf_counter(), self.phase
                (await client.post(self._url, content=body, headers=_HEADERS)).raise_for_status()
                took = time.perf_counter() - started
                self.times.setdefault(phase, []).append(1e3 * took)
                await asyncio.sleep(max(0.0, _INTERVAL - took))


async def _measure(server: Server, rounds: int, seconds: float) -> dict[str, list[float]]:
    client, rng = Client(server.url), random.Random(5)
    root = server.url.removesuffix("/v1/chat/completions")
    sending = asyncio.create_task(client.run())

    async with httpx.AsyncClient(base_url=root, timeout=600, headers=_HEADERS) as clara:

        async def call(path: str, **body: Any) -> None:
            (await clara.post(path, json=body)).raise_for_status()

        def compress(count: int, size: int, new_tokens: int) -> Awaitable[None]:
            memories = [" ".join(rng.choices(_WORDS, k=size)) for _ in range(count)]
            return call("/compress", memories=memories, query="Where does the fox work?", max_new_tokens=new_tokens)

        async def run_phase(name: str, work: Callable[[], Awaitable[object]]) -> None:
            client.phase = name
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                await work()
            client.phase = ""

        client.phase = "first load"  # imports the library, too
        await compress(1, 5, 1)
        for _ in range(rounds):
            await run_phase("idle", lambda: asyncio.sleep(seconds))
            await call("/unload")
            client.phase = "loading"
            await compress(1, 5, 1)
            client.phase = ""
            await run_phase("encoding", lambda: compress(32, 100, 1))
            await run_phase("answering", lambda: compress(2, 10, 64))
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    return client.times


def summarize(times: list[float]) -> dict[str, float]:
    """Return the number of requests, and the median, 99th percentile and maximum of their milliseconds."""
    ordered = sorted(times)
    p50, p99 = (ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    return {"requests": len(ordered), "p50": p50, "p99": p99, "max": ordered[-1]}


def main() -> None:
    """Start the servers, measure the phases, print a table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="clara-nano")
    parser.add_argument("--base", default="", help="the base model of another checkpoint")
    parser.add_argument("--dtype", default="auto", help="CLARA_DTYPE")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of each phase, at least one call of CLaRa")
    options = parser.parse_args()
    with ExitStack() as stack:
        double = stack.enter_context(run_server(build_double_command(find_free_port())))
        upstream = double.url.removesuffix("/v1/chat/completions")
        command = build_clara_command(Path(sys.executable).parent, upstream, find_free_port())
        env = {**command.env, "CLARA_MODEL": options.model, "CLARA_BACKEND": "cpu", "CLARA_DTYPE": options.dtype}
        env |= {"CLARA_BASE": options.base} if options.base else {}
        server = stack.enter_context(run_server(command._replace(env=env)))
        times = asyncio.run(_measure(server, options.rounds, options.seconds))
    phases = {name: summarize(times[name]) for name in PHASES if name in times}
    print(f"{'ms':10}{'requests':>10}{'p50':>8}{'p99':>8}{'max':>8}")
    for name, row in phases.items():
        print(f"{name:10}{row['requests']:10.0f}{row['p50']:8.1f}{row['p99']:8.1f}{row['max']:8.1f}")
    print(json.dumps({"benchmark": "clara_latency", "program": CLARA_NAME, "model": options.model, "phases": phases}))


if __name__ == "__main__":
    main()
