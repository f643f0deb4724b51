"""wrk as the load generator: a C program, so that it does not become what is measured. Targets take turns.

Each target is warmed up for a second in each cell, and what that gave sets its window: one that answers slowly gets a
longer one, so that four answers a connection can come back, once instead of in several rounds. Requests under way at
the end of a window are not counted; the target is left to finish them before the next one's turn.
"""

import json
import math
import random
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .load import BENCH, Load, build_chat
from .servers import Server, find_wrk, read_cpu_seconds, wait_until_idle

MAX_WINDOW_SECONDS = 10  # seconds
_REPORT_SCRIPT = Path(__file__).with_name("wrk_report.lua")


class LoadResult(NamedTuple):
    """What one cell gave: requests a second, latencies in ms, failures, the target's processor time in us a request.

    The last is the steadiest of them: it hardly changes when the machine is busy with something else.
    """

    rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: int
    cpu_us: float

    def __str__(self) -> str:
        """The figures as one line of a table."""
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
    """Load one target for some whole seconds, then let it come to rest."""
    flags = ["-t1", f"-c{load.connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(_REPORT_SCRIPT)]
    argv = [find_wrk(), *flags, server.url, "--", str(_write_body(load)), str(random.randrange(10**8))]
    before = read_cpu_seconds(server)
    done = subprocess.run(argv, capture_output=True, check=True, timeout=seconds + 60)
    cpu = read_cpu_seconds(server) - before
    wait_until_idle(server)
    got = json.loads(done.stdout.splitlines()[-1])
    latencies = (got["p50_ms"], got["p95_ms"], got["p99_ms"])
    return LoadResult(got["requests"] / got["seconds"], *latencies, got["failed"], 1e6 * cpu / max(got["requests"], 1))


def compute_median(figures: Sequence[LoadResult]) -> LoadResult:
    """Field by field; failures are summed, none is hidden."""
    rps, p50, p95, p99, _, cpu = (statistics.median(column) for column in zip(*figures, strict=True))
    return LoadResult(rps, p50, p95, p99, sum(one.failed for one in figures), cpu)


def compute_window(answers_per_s: float, connections: int, seconds: int) -> int:
    """Seconds in which four answers a connection come back: at least `seconds`, at most LONGEST."""
    needed = 4 * connections / answers_per_s if answers_per_s else math.inf
    return max(seconds, math.ceil(min(needed, MAX_WINDOW_SECONDS)))


def measure_in_turns(servers: Sequence[Server], load: Load, rounds: int, seconds: int) -> dict[str, LoadResult]:
    """Load each target in turn, `rounds` times, each round beginning with another, so that noise hits all alike."""
    windows = {
        server.name: compute_window(run_wrk(server, load, 1).rps, load.connections, seconds) for server in servers
    }
    seen: dict[str, list[LoadResult]] = {server.name: [] for server in servers}
    for turn in range(rounds):
        at = turn % len(servers)
        for server in [*servers[at:], *servers[:at]]:
            slow = windows[server.name] > 2 * seconds
            if not (slow and seen[server.name]):
                seen[server.name].append(run_wrk(server, load, windows[server.name]))
    return {name: compute_median(figures) for name, figures in seen.items()}


def print_tables(
    servers: Sequence[Server], loads: Iterable[Load], rounds: int, seconds: int
) -> list[dict[str, object]]:
    """Print a table for each load and give the same as rows for JSON."""
    rows: list[dict[str, object]] = []
    for load in loads:
        print(f"\n{load}")
        for name, got in measure_in_turns(servers, load, rounds, seconds).items():
            print(f"  {name:36} {got}", flush=True)
            rows.append({"target": name, **load._asdict(), **got._asdict()})
    return rows
