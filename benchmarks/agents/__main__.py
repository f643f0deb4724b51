"""Run real clients through the proxy against a provider whose model follows a script, and compare with direct runs.

    python -m clara_proxy.benchmarks.agents [CLIENT ...] --packages FOLDER [--list] [--keep FOLDER]

Each client is installed from its registry into FOLDER, once. The model runs a check with a long log, reads four files,
and edits each from the text that it was shown. Runs: direct; through `clara-proxy serve`; through `clara-proxy wrap`;
and with a model that fetches the original of the log. "Unchanged"
means: the same files, answer and exit status, no request refused, and no trace of the proxy in output or files. Needs
Linux, and node and npm for clients from npm; AGENTS_PYTHON names the Python for clients from PyPI. The last line is
JSON.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from ...proxy.protocols.json_types import Json
from .clients import CLIENTS, Client
from .runs import Setup, install, read_version, run_client

HEAD = (
    f"{'client':36}{'version':>10}  {'API':10}{'serve':10}{'wrap':10}{'expansion':10}{'tokens direct':>14}"
    f"{'through':>10}{'saved':>7}  seconds  through"
)


def measure(client: Client, packages: Path, scratch: Path) -> Json:
    """Run a client in every way and return one row of the table."""
    folder = install(client, packages)
    setup = Setup(client, folder, scratch)
    direct = run_client(setup, "direct")
    if problems := direct.list_problems(None):
        return {"client": client.name, "version": read_version(client, folder), "direct": problems}
    served = run_client(setup, "serve")
    wrapped = run_client(setup, "wrap") if client.wrappable else None
    expanded = run_client(setup, "serve", expand=True) if client.expandable else None
    return {
        "client": client.name,
        "version": read_version(client, folder),
        "api": client.api,
        "serve": served.list_problems(direct),
        "wrap": wrapped.list_problems(direct) if wrapped else None,
        "expansion": expanded.list_problems(direct) if expanded else None,
        "expansions": expanded.expansions if expanded else 0,
        "tokens_direct": direct.tokens,
        "tokens_through": served.tokens,
        "saved": round(1 - served.tokens / max(1, direct.tokens), 3),
        "requests": [direct.requests, served.requests],
        "seconds": [round(direct.seconds, 1), round(served.seconds, 1)],
    }


def format_row(row: Json) -> str:
    """Return one line of the table, and one more for each difference."""
    if "direct" in row:
        return f"{row['client']:36}{row['version']:>10}  the direct run failed: {row['direct']}"

    def verdict(name: str) -> str:
        problems = row[name]
        is_missing = problems is None or (name == "expansion" and not row["expansions"])
        return "no" if problems else "-" if is_missing else "unchanged"

    cells = f"{row['api']:10}{verdict('serve'):10}{verdict('wrap'):10}{verdict('expansion'):10}"
    tokens = f"{row['tokens_direct']:>14,}{row['tokens_through']:>10,}{row['saved']:>7.1%}"
    direct_s, through_s = row["seconds"]
    lines = [f"{row['client']:36}{row['version']:>10}  {cells}{tokens}  {direct_s:7.1f}{through_s:9.1f}"]
    lines += [f"    {name}: {problem}" for name in ("serve", "wrap", "expansion") for problem in row[name] or ()]
    return "\n".join(lines)


def main() -> None:
    """Run the clients named on the command line, or all, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", help="names of clients, or the beginnings of names (default: all)")
    parser.add_argument("--packages", type=Path, help="folder into which clients are installed")
    parser.add_argument("--keep", type=Path, help="folder that keeps homes, projects, outputs and requests of the runs")
    parser.add_argument("--list", action="store_true", help="list the clients and exit")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(f"{client.name:36}{client.source:5}{' '.join(client.packages)}" for client in CLIENTS))
        return
    if arguments.packages is None:
        parser.error("--packages is required")
    names = [name.lower() for name in arguments.clients] or [""]
    chosen = [client for client in CLIENTS if any(client.name.lower().startswith(name) for name in names)]
    if not chosen:
        sys.exit("no client has such a name; see --list")
    rows: list[Json] = []
    with tempfile.TemporaryDirectory(prefix="agents-") as temporary:
        scratch = (arguments.keep or Path(temporary)).resolve()
        print(HEAD)
        for client in chosen:
            rows.append(measure(client, arguments.packages.resolve(), scratch))
            print(format_row(rows[-1]), flush=True)
    print(json.dumps({"benchmark": "agents", "clients": rows}))


if __name__ == "__main__":
    main()
