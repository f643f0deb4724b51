"""Compare HTTP clients for the upstream connection, and measure the cost of each layer of the web framework.

    python -m clara_proxy.benchmarks.clients [--quick]

The first tables compare bare relays, one uvicorn worker each, before the upstream double. The last table compares
stacks of framework layers that return one constant answer. A client that is not installed is skipped; add
httpx-aiohttp with `pip install --no-deps --target .bench/extra httpx-aiohttp` in the repository root. Needs wrk and
Linux. The last line is JSON.
"""

import argparse
import contextlib
import itertools
import json

from .load import BENCH, LARGE, SMALL, Load
from .relays import CLIENTS, LAYERS
from .servers import (
    Command,
    Server,
    build_double_command,
    build_module_command,
    find_free_port,
    find_wrk,
    handle_stop_signals,
    run_server,
    try_to_start,
)
from .wrk import print_tables


def _start_relay(stack: contextlib.ExitStack, name: str, upstream: str = "") -> Server | None:
    port = find_free_port()
    argv = build_module_command("relays", name, "--port", str(port), "--upstream", upstream)
    return try_to_start(stack, Command(name, argv, port, {"PYTHONPATH": str(BENCH / "extra")}, timeout_s=20))


def _compare_clients(*, quick: bool) -> list[dict[str, object]]:
    sizes, connections = ([SMALL], [16]) if quick else ([SMALL, LARGE], [1, 16, 64])
    loads = [Load(*values) for values in itertools.product(sizes, [False, True], connections)]
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(run_server(build_double_command(find_free_port())))
        relays = [_start_relay(stack, name, upstream.url) for name in CLIENTS]
        return print_tables([upstream, *filter(None, relays)], loads, 1 if quick else 3, 1)


def _compare_layers(*, quick: bool) -> list[dict[str, object]]:
    load = Load(SMALL, streamed=False, connections=16)
    with contextlib.ExitStack() as stack:
        servers = [_start_relay(stack, name) for name in LAYERS]
        return print_tables([*filter(None, servers)], [load], 1 if quick else 6, 1)


def main() -> None:
    """Run both comparisons, print the tables, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="measure one load for one round in each comparison")
    quick = parser.parse_args().quick
    find_wrk()
    handle_stop_signals()
    clients, layers = _compare_clients(quick=quick), _compare_layers(quick=quick)
    print(json.dumps({"benchmark": "clients", "clients": clients, "layers": layers}))


if __name__ == "__main__":
    main()
