"""Measure the overhead of clara-proxy and its peers, one worker each, before one upstream double.

    python -m clara_proxy.benchmarks.overhead [--quick] [--growing] [--resume] [--peers litellm,headroom,kompact]

The tables show requests per second, latencies and processor time with bodies of 1 KB and 200 KB (small messages,
nothing to compress), plain and streamed; the time to the first event of a stream; growing conversations of an agent,
cold and warm; start-up time, memory and install size. Targets take turns under each load, and figures are medians. The
rows `double` (no proxy) and `bare relay` (an ASGI app on aiohttp without parsing) are the baselines. Each figure is
stored in .bench/overhead.jsonl, with the versions and the date, as soon as it is measured; `--resume` measures only
what is missing there. The peers' environments in .bench/ are kept. Needs Linux and wrk. The last line is JSON.
"""

import argparse
import contextlib
import itertools
import json
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import growing, peers, ttfb
from .cells import CellFile
from .load import BENCH, LARGE, SMALL, Load
from .servers import (
    Command,
    Server,
    build_double_command,
    build_module_command,
    find_free_port,
    find_wrk,
    handle_stop_signals,
    read_rss_mb,
    run_server,
    try_to_start,
    wait_until_idle,
)
from .wrk import compute_window, print_tables

ResultRow = dict[str, object]


class Plan(NamedTuple):
    """The loads, the rounds and seconds of each load, the starts of each target, and growing conversations."""

    loads: Sequence[Load]
    rounds: int
    seconds: int
    starts: int
    conversations: int = 0


QUICK = Plan([Load(SMALL, streamed=False, connections=16), Load(SMALL, streamed=True, connections=16)], 1, 1, 1)
FULL = Plan([Load(*values) for values in itertools.product([SMALL, LARGE], [False, True], [1, 16, 64])], 3, 2, 3, 5)
GROWING = Plan([], 0, 0, 1, 5)


def _build_commands(programs: dict[str, Path], upstream: str) -> list[Command]:
    base = upstream.removesuffix("/v1/chat/completions")
    port = find_free_port()
    relay = Command(
        "bare relay", build_module_command("relays", "aiohttp", "--port", str(port), "--upstream", upstream), port
    )
    targets = (peers.PEERS[name].build_command(path, base, find_free_port()) for name, path in programs.items())
    return [relay, *targets]


def _measure_startup(command: Command, times: int) -> list[float]:
    """Start and stop the target `times` times, and return the seconds from each start to the first answer."""
    durations: list[float] = []
    with contextlib.suppress(RuntimeError, FileNotFoundError):  # try_to_start reports the failure later
        for _ in range(times):
            with run_server(command) as server:
                durations.append(server.ready_s)
    return durations


def _measure_at_rest(servers: Sequence[Server], starts: dict[str, list[float]]) -> list[ResultRow]:
    print("\nstart-up to the first answer (median), resident memory at rest")
    rows: list[ResultRow] = []
    for server in servers:
        wait_until_idle(server)
        ready = statistics.median([*starts.get(server.name, []), server.ready_s])
        rows.append({"target": server.name, "ready_s": ready, "rss_mb": read_rss_mb(server)})
        print(f"  {server.name:36} {ready:8.2f} s  {rows[-1]['rss_mb']:8.0f} MB", flush=True)
    return rows


def _measure_first_bytes(servers: Sequence[Server], plan: Plan) -> list[ResultRow]:
    rows: list[ResultRow] = []
    loads = sorted({(load.size, load.connections) for load in plan.loads if load.streamed and load.connections < 64})
    for size, connections in loads:
        print(f"\n{size}, streamed, connections: {connections}")
        for server in servers:
            warm_up = ttfb.measure_first_event(server.url, size, connections, 1)
            wait_until_idle(server)
            window = compute_window(warm_up.answers, connections, 2 * plan.seconds)
            times = ttfb.measure_first_event(server.url, size, connections, window)
            wait_until_idle(server)
            print(f"  {server.name:36} {times}", flush=True)
            rows.append({"target": server.name, "size": size, "connections": connections, **times._asdict()})
    return rows


def _measure_growing(servers: Sequence[Server], plan: Plan, cells: CellFile) -> list[ResultRow]:
    print(f"\ngrowing conversations: {growing.TURNS} turns, 200 KB at the end")
    rows: list[ResultRow] = []
    for server in servers if plan.conversations else ():
        keys = {state: {"table": "growing", "target": server.name, "state": state} for state in ("cold", "warm")}
        if any(cells.find(key) is None for key in keys.values()):
            growing.measure_conversations(server, 1, random.randrange(10**9))  # loads what the first request needs
            figures = growing.measure_conversations(server, plan.conversations, random.randrange(10**9))
            for state, times in figures.items():
                cells.add({**keys[state], **times._asdict()})
        for state, key in keys.items():
            cell = cells.find(key) or {}
            times = growing.GrowingTimes(*(cell[field] for field in growing.GrowingTimes._fields))
            print(f"  {server.name:24} {state:6} {times}", flush=True)
            rows.append(cell)
    return rows


def _read_versions(sizes: dict[str, peers.InstallSize]) -> dict[str, str]:
    """Return the versions of Python and of all targets; clara-proxy has that of its last commit."""
    command = ["git", "-C", str(peers.ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    versions = {name: size.version for name, size in sizes.items()}
    return {"python": platform.python_version(), **versions, peers.CLARA_NAME: commit or "unknown"}


def _list_install_sizes(sizes: dict[str, peers.InstallSize]) -> list[ResultRow]:
    print("\ninstall size (site-packages)")
    for name, size in sizes.items():
        own = f", {size.total_mb - size.first_mb:.0f} MB without litellm" if size.first_mb else ""
        print(f"  {name:36} {size.total_mb:8.0f} MB  version {size.version}{own}")
    return [{"target": name, **size._asdict()} for name, size in sizes.items()]


def measure_all(programs: dict[str, Path], plan: Plan, cells: CellFile) -> dict[str, list[ResultRow]]:
    """Start the double and all targets, print the tables, and return their rows."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(run_server(build_double_command(find_free_port())))
        commands = _build_commands(programs, upstream.url)
        starts = {command.name: _measure_startup(command, plan.starts - 1) for command in commands}
        servers = [upstream, *filter(None, [try_to_start(stack, command) for command in commands])]
        return {
            "rest": _measure_at_rest(servers, starts),
            "load": print_tables(servers, plan.loads, plan.rounds, plan.seconds, cells),
            "first_event": _measure_first_bytes(servers, plan),
            "growing": _measure_growing(servers, plan, cells),
        }


def main() -> None:
    """Measure, print the tables, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only clara-proxy with 1 KB bodies, in less than a minute")
    parser.add_argument("--peers", default="", help="peers, separated by commas: litellm,headroom,kompact")
    parser.add_argument("--growing", action="store_true", help="only growing conversations")
    parser.add_argument("--resume", action="store_true", help="measure only what the last run has not measured")
    options = parser.parse_args()
    plan = QUICK if options.quick else GROWING if options.growing else FULL
    if plan.loads:
        find_wrk()
    handle_stop_signals()
    programs = {peers.CLARA_NAME: Path(sys.executable).parent}
    sizes: dict[str, peers.InstallSize] = {}
    if options.peers and not options.quick:
        installations = {name: peers.install_peer(name) for name in [peers.CLARA_NAME, *options.peers.split(",")]}
        programs = {name: path for name, (path, _) in installations.items()}
        sizes = {name: size for name, (_, size) in installations.items()}
    cells = CellFile(BENCH / "overhead.jsonl", _read_versions(sizes), resume=options.resume)
    tables = measure_all(programs, plan, cells)
    install = _list_install_sizes(sizes) if sizes else []
    print(json.dumps({"benchmark": "overhead", **cells.header, **tables, "install": install}))


if __name__ == "__main__":
    main()
