"""Measure requests per second with wrk, a C program that is much faster than the targets. Targets take turns.

A target is warmed up for a second under each load; the result sets its window. A slow target gets one longer window
instead of several rounds, long enough for four answers a connection. Requests in flight at the end of a window are not
counted; the next target starts after they are finished.
"""

import json
import math
import random
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .cells import Cell, CellFile
from .load import BENCH, Load, build_chat
from .servers import Server, find_wrk, read_cpu_seconds, wait_until_idle

MAX_WINDOW_SECONDS = 10
_REPORT_SCRIPT = Path(__file__).with_name("wrk_report.lua")


class LoadResult(NamedTuple):
    """Requests a second, latencies in ms, failed requests, and the target's processor time in us a request.

    Processor time is the steadiest figure: it hardly changes on a busy machine.
    """

    rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    cpu_us: float

    def __str__(self) -> str:
        """Return the figures as one row of a table."""
        failed = f"  FAILED {self.failed}" if self.failed else ""
        if not self.rps:
            return f"no answer within {MAX_WINDOW_SECONDS} s{failed}"
        latencies = f"p50 {self.p50_ms:8.2f}  p95 {self.p95_ms:8.2f}  p99 {self.p99_ms:8.2f} ms"
        return f"{self.rps:8.0f}/s  cpu {self.cpu_us:7.0f} us  {latencies}{failed}"


def _write_body(load: Load) -> Path:
    path = BENCH / f"body-{load.size.replace(' ', '')}-{'streamed' if load.streamed else 'plain'}.json"
    path.write_bytes(build_chat(load.size, streamed=load.streamed))
    return path


def run_wrk(server: Server, load: Load, seconds: int) -> LoadResult:
    """Load one target for `seconds`, then wait until it is idle."""
    flags = ["-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(_REPORT_SCRIPT)]
    argv = [find_wrk(), *flags, server.url, "--", str(_write_body(load)), str(random.randrange(10**8))]
    before = read_cpu_seconds(server)
    process = subprocess.run(argv, capture_output=True, check=True, timeout=seconds + 60)
    cpu = read_cpu_seconds(server) - before
    wait_until_idle(server)
    report = json.loads(process.stdout.splitlines()[-1])
    requests = report["requests"]
    latencies = (report["p50_ms"], report["p95_ms"], report["p99_ms"])
    return LoadResult(requests / report["seconds"], *latencies, report["failed"], 1e6 * cpu / max(requests, 1))


def compute_median(results: Sequence[LoadResult]) -> LoadResult:
    """Return the median of each field, and the sum of the failures."""
    rps, p50, p95, p99, _, cpu = (statistics.median(column) for column in zip(*results, strict=True))
    return LoadResult(rps, p50, p95, p99, sum(result.failed for result in results), cpu)


def compute_window(answers_per_s: float, connections: int, seconds: int) -> int:
    """Return the seconds for four answers a connection: at least `seconds`, at most `MAX_WINDOW_SECONDS`."""
    needed = 4 * connections / answers_per_s if answers_per_s else math.inf
    return max(seconds, math.ceil(min(needed, MAX_WINDOW_SECONDS)))


def measure_in_turns(servers: Sequence[Server], load: Load, rounds: int, seconds: int) -> dict[str, LoadResult]:
    """Return each target's median over `rounds` turns. The first target of a round rotates, to spread the noise.

    Each turn is reported on stderr as soon as it is measured.
    """
    windows = {
        server.name: compute_window(run_wrk(server, load, 1).rps, load.connections, seconds) for server in servers
    }
    results: dict[str, list[LoadResult]] = {server.name: [] for server in servers}
    for turn in range(rounds):
        first = turn % len(servers)
        for server in [*servers[first:], *servers[:first]]:
            is_slow = windows[server.name] > 2 * seconds
            if not (is_slow and results[server.name]):
                results[server.name].append(run_wrk(server, load, windows[server.name]))
                print(f"  {load}: {server.name:24} {results[server.name][-1]}", file=sys.stderr, flush=True)
    return {name: compute_median(figures) for name, figures in results.items()}


def print_tables(
    servers: Sequence[Server], loads: Iterable[Load], rounds: int, seconds: int, cells: CellFile | None = None
) -> list[Cell]:
    """Print a table for each load, and return its rows for JSON. Figures that are in `cells` are not measured again."""
    rows: list[Cell] = []
    for load in loads:
        print(f"\n{load}")
        known = {server.name: _find_result(cells, server, load) for server in servers}
        measured = measure_in_turns([server for server in servers if known[server.name] is None], load, rounds, seconds)
        for server in servers:
            result = known[server.name] or measured[server.name]
            print(f"  {server.name:36} {result}", flush=True)
            rows.append({"target": server.name, **load._asdict(), **result._asdict()})
            if cells is not None and server.name in measured:
                cells.add({"table": "load", **rows[-1]})
    return rows


def _find_result(cells: CellFile | None, server: Server, load: Load) -> LoadResult | None:
    cell = cells.find({"table": "load", "target": server.name, **load._asdict()}) if cells is not None else None
    return None if cell is None else LoadResult(*(cell[field] for field in LoadResult._fields))
