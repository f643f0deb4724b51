"""What a proxy adds to a request: clara-proxy and its peers side by side, one worker each, before one upstream double.

Requests a second, latencies and processor time with 1 KB and 200 KB bodies (many small messages, nothing to compress),
plain and streamed; time to the first event of a stream; start-up, memory and install size. Targets take turns within
each cell and medians are printed, as machines are noisy. The rows `double` (no proxy) and `bare relay` (an ASGI app
on aiohttp that understands nothing) say what part is not the proxy's. Needs Linux and wrk.

`python -m clara_proxy.benchmarks.overhead [--quick] [--peers litellm,headroom,kompact]`
"""

import argparse
import contextlib
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import peers, ttfb
from .load import LARGE, SMALL, Load
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
    """How much of everything is measured."""

    loads: Sequence[Load]
    rounds: int
    seconds: int
    starts: int


QUICK = Plan([Load(SMALL, streamed=False, connections=16), Load(SMALL, streamed=True, connections=16)], 1, 1, 1)
FULL = Plan([Load(*cell) for cell in itertools.product([SMALL, LARGE], [False, True], [1, 16, 64])], 3, 2, 3)


def _build_commands(programs: dict[str, Path], upstream: str) -> list[Command]:
    base = upstream.removesuffix("/v1/chat/completions")
    port = find_free_port()
    relay = Command(
        "bare relay", build_module_command("relays", "aiohttp", "--port", str(port), "--upstream", upstream), port
    )
    return [
        relay,
        *(peers.PEERS[name].build_command(where, base, find_free_port()) for name, where in programs.items()),
    ]


def _measure_startup(command: Command, times: int) -> list[float]:
    """Seconds from start to first answer, `times` times; the target is gone afterwards."""
    taken: list[float] = []
    with contextlib.suppress(RuntimeError, FileNotFoundError):  # said later, when it is started to stay
        for _ in range(times):
            with run_server(command) as server:
                taken.append(server.ready_s)
    return taken


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
    cells = sorted({(load.size, load.connections) for load in plan.loads if load.streamed and load.connections < 64})
    for size, connections in cells:
        print(f"\n{size}, streamed, connections: {connections}")
        for server in servers:
            warm = ttfb.measure_first_event(server.url, size, connections, 1)
            wait_until_idle(server)
            got = ttfb.measure_first_event(
                server.url, size, connections, compute_window(warm.answers, connections, 2 * plan.seconds)
            )
            wait_until_idle(server)
            print(f"  {server.name:36} {got}", flush=True)
            rows.append({"target": server.name, "size": size, "connections": connections, **got._asdict()})
    return rows


def _list_install_sizes(sizes: dict[str, peers.InstallSize]) -> list[ResultRow]:
    print("\ninstall size (site-packages)")
    for name, size in sizes.items():
        beyond = f", {size.total_mb - size.first_mb:.0f} MB beyond litellm itself" if size.first_mb else ""
        print(f"  {name:36} {size.total_mb:8.0f} MB  version {size.version}{beyond}")
    return [{"target": name, **size._asdict()} for name, size in sizes.items()]


def measure_all(programs: dict[str, Path], plan: Plan) -> dict[str, list[ResultRow]]:
    """Start the double and every target, and fill all the tables."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(run_server(build_double_command(find_free_port())))
        commands = _build_commands(programs, upstream.url)
        starts = {command.name: _measure_startup(command, plan.starts - 1) for command in commands}
        found = filter(None, [try_to_start(stack, command) for command in commands])
        servers = [upstream, *found]
        return {
            "rest": _measure_at_rest(servers, starts),
            "load": print_tables(servers, plan.loads, plan.rounds, plan.seconds),
            "first_event": _measure_first_bytes(servers, plan),
        }


def main() -> None:
    """Measure and print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test of clara-proxy alone, well under a minute")
    parser.add_argument(
        "--peers", default="", help="which to compare with, separated by commas: litellm,headroom,kompact"
    )
    given = parser.parse_args()
    find_wrk()
    handle_stop_signals()
    installed = (
        {}
        if given.quick or not given.peers
        else {name: peers.install_peer(name) for name in [peers.CLARA_NAME, *given.peers.split(",")]}
    )
    programs = {name: where for name, (where, _) in installed.items()} or {
        peers.CLARA_NAME: Path(sys.executable).parent
    }
    figures = measure_all(programs, QUICK if given.quick else FULL)
    sizes = _list_install_sizes({name: size for name, (_, size) in installed.items()}) if installed else []
    print(json.dumps({"benchmark": "overhead", **figures, "install": sizes}))


if __name__ == "__main__":
    main()
