"""Run honest and hostile clients against one proxy for some minutes, and report what the honest ones notice.

    python -m clara_proxy.benchmarks.attack.soak [--minutes N]

It prints a line a minute and ends with one JSON object: the latency of honest small requests, the memory of the proxy,
the rows of its ledger, and the load of the machine, which other processes may cause.
"""

import argparse
import gzip
import http.client
import json
import multiprocessing
import os
import random
import sqlite3
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.queues import Queue
from queue import Empty

import orjson

from . import client
from .connection_attacks import HEAD
from .reply_attacks import LOG_TEXT
from .target import Target, run_target
from .upstream import run_upstream

MEGABYTE = 2**20
HONEST_CLIENTS, PAUSE = 4, 0.05  # seconds between two requests of an honest client
_BOMB = gzip.compress(b'{"model":"m","messages":[{"role":"user","content":"' + b"a" * 30 * MEGABYTE + b'"}]}', 1)
_processes = multiprocessing.get_context("spawn")


@contextmanager
def run_upstream_process() -> Generator[str]:
    """Run the upstream in a process of its own, and yield its URL: no client's work delays an answer."""
    here, there = _processes.Pipe()
    process = _processes.Process(target=_serve_upstream, args=(there,), daemon=True)
    process.start()
    try:
        yield here.recv()
    finally:
        process.kill()


def _serve_upstream(connection: Connection) -> None:
    with run_upstream() as upstream:
        upstream.keeps_bodies = False
        connection.send(upstream.url)
        threading.Event().wait()


@contextmanager
def run_honest_clients(port: int) -> Generator["HonestClients"]:
    """Run honest clients in a process of their own, so that the work of hostile ones does not count as latency."""
    clients = HonestClients(_processes.Queue())
    process = _processes.Process(target=_start_honest_clients, args=(port, clients.results), daemon=True)
    process.start()
    try:
        yield clients
    finally:
        process.kill()
        process.join()


class HonestClients:
    """What the honest clients have met: latencies in milliseconds and counts of outcomes."""

    def __init__(self, results: "Queue[tuple[float, str]]") -> None:
        self.results = results
        self.counts: Counter[str] = Counter()

    def take_latencies(self) -> list[float]:
        """Return the latencies since the last call, in milliseconds."""
        latencies: list[float] = []
        with suppress(Empty):
            while True:
                latency, outcome = self.results.get_nowait()
                latencies.append(latency)
                self.counts[outcome] += 1
        return latencies


def _start_honest_clients(port: int, results: "Queue[tuple[float, str]]") -> None:
    clients = [threading.Thread(target=_send_small_requests, args=(port, results)) for _ in range(HONEST_CLIENTS)]
    for thread in clients:
        thread.start()


def _send_small_requests(port: int, results: "Queue[tuple[float, str]]") -> None:
    """Send small requests on one connection, one after the other."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=client.TIMEOUT)
    body = orjson.dumps(client.SMALL_CHAT)
    while True:
        time.sleep(PAUSE)
        start_time = time.perf_counter()
        try:
            connection.request("POST", client.CHAT, body, {"content-type": "application/json"})
            response = connection.getresponse()
            response.read()
            outcome = "honest" if response.status == 200 else "honest refused"
        except (OSError, http.client.HTTPException):
            outcome = "honest broken"
            connection.close()
        results.put((1000 * (time.perf_counter() - start_time), outcome))


class Soak:
    """The hostile clients of one run."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.stop = threading.Event()
        self.counts: Counter[str] = Counter()

    def run_hostile(self, seed: int) -> None:
        """Attack in random order, again and again."""
        rng = random.Random(seed)
        attacks: list[Callable[[], object]] = [
            self.send_bomb,
            self.send_endless_head,
            self.stay_silent,
            self.leave_early,
            self.send_many_messages,
            self.send_tool_output,
        ]
        while not self.stop.wait(rng.random()):
            attack = rng.choice(attacks)
            with suppress(OSError):
                attack()
            self.counts[attack.__name__] += 1

    def send_bomb(self) -> None:
        """Send a packed body that unpacks to 30 MB."""
        client.send(self.target, _BOMB, content_encoding="gzip")

    def send_endless_head(self) -> None:
        """Send a head without an end."""
        client.send_until_closed(self.target, HEAD + b"x: ", b"a" * 65536, 32 * MEGABYTE)

    def stay_silent(self) -> None:
        """Open connections that send nothing for a while."""
        with client.open_connections(self.target, 20, HEAD):
            self.stop.wait(2)

    def leave_early(self) -> None:
        """Disconnect as soon as the request is sent."""
        body = orjson.dumps(client.SMALL_CHAT)
        with client.connect(self.target) as connection:
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)

    def send_many_messages(self) -> None:
        """Send as many messages as fit into two megabytes."""
        message = b'{"role":"user","content":"a"}'
        client.send(self.target, b'{"model":"m","messages":[' + (message + b",") * 60_000 + message + b"]}")

    def send_tool_output(self) -> None:
        """Send a tool output that is compressed and stored."""
        text = f"{random.random()}\n{LOG_TEXT}"
        message = {"role": "tool", "tool_call_id": "c", "content": text}
        client.send(self.target, client.SMALL_CHAT | {"messages": [message], "tools": [client.TOOL]})


def report_minute(target: Target, latencies: list[float], seconds: float) -> dict[str, object]:
    """Return the figures of one minute."""
    quantiles = statistics.quantiles(latencies, n=100) if len(latencies) > 1 else [0.0] * 99
    return {
        "seconds": round(seconds),
        "honest": len(latencies),
        "p50_ms": round(quantiles[49], 1),
        "p99_ms": round(quantiles[98], 1),
        "rss_mb": round(target.read_rss_mb()),
        "descriptors": target.count_descriptors(),
        "load": round(os.getloadavg()[0], 1),
    }


def count_rows(target: Target) -> int:
    """Return the number of rows in the ledger."""
    with closing(sqlite3.connect(target.folder / "data" / "ledger.sqlite3")) as database:
        return int(database.execute("SELECT count(*) FROM ledger WHERE path = '/v1/chat/completions'").fetchone()[0])


def read_metrics(target: Target) -> dict[str, float]:
    """Return the samples of the proxy's metrics by name and labels."""
    page = client.send(target, b"", "/metrics", method="GET").body.decode()
    pairs = [line.rpartition(" ") for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in pairs}


def run(minutes: float) -> dict[str, object]:
    """Run the clients, and return the figures of the whole run."""
    with (
        run_upstream_process() as upstream,
        run_target(upstream, client_timeout=5) as target,
        run_honest_clients(target.port) as honest,
    ):
        soak = Soak(target)
        workers = [threading.Thread(target=soak.run_hostile, args=(seed,)) for seed in range(2)]
        for worker in workers:
            worker.start()
        start_time, pages = time.monotonic(), list[dict[str, object]]()
        all_latencies: list[float] = []
        while time.monotonic() - start_time < 60 * minutes:
            time.sleep(min(60.0, 60 * minutes))
            latencies = honest.take_latencies()
            all_latencies += latencies
            pages.append(report_minute(target, latencies, time.monotonic() - start_time))
            print(json.dumps(pages[-1]), flush=True)
        soak.stop.set()
        for worker in workers:
            worker.join()
        honest.take_latencies()
        values = read_metrics(target)
        deadline = time.monotonic() + 30
        while values["clara_ledger_waiting_rows"] and time.monotonic() < deadline:
            time.sleep(0.5)
            values = read_metrics(target)
        recorded = sum(
            value for name, value in values.items() if name.startswith("clara_requests_total") and '"chat"' in name
        )
        quantiles = statistics.quantiles(all_latencies, n=100)
        return {
            "minutes": minutes,
            "honest_p50_ms": round(quantiles[49], 1),
            "honest_p99_ms": round(quantiles[98], 1),
            "rss_mb_by_minute": [page["rss_mb"] for page in pages],
            "load_by_minute": [page["load"] for page in pages],
            "holds_ms": sorted(target.read_holds()),
            "requests_recorded": int(recorded),
            "rows_stored": count_rows(target),
            "rows_waiting": values["clara_ledger_waiting_rows"],
            "rows_lost": values["clara_ledger_lost_rows_total"],
            "counts": dict(honest.counts + soak.counts),
        }


def main() -> None:
    """Run the soak and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    print(json.dumps(run(parser.parse_args().minutes)))


if __name__ == "__main__":
    main()
