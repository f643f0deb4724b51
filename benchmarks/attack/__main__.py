"""Attack a proxy on loopback, and print how many attempts it survived.

    python -m clara_proxy.benchmarks.attack [--quick] [NAME ...]

Each module `NAME_attacks.py` starts its own proxy and upstream, with a temporary data directory. The last line is one
JSON object. The exit status is 1 if an attack did harm.
"""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from .verdict import Verdict

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("*_attacks.py"))


def run_module(name: str, *, quick: bool) -> list[Verdict]:
    """Run one module's attacks. An exception in it is a verdict, too: nothing was survived."""
    try:
        verdicts: list[Verdict] = importlib.import_module(f"{__package__}.{name}").run(quick)
    except Exception as error:  # noqa: BLE001 - the other modules still run
        return [Verdict(name, 1, 0, f"{type(error).__name__}: {error}"[:200])]
    return verdicts


def format_verdict(verdict: Verdict) -> str:
    """Return a row of the table."""
    mark = "held" if verdict.has_held else "BROKEN"
    return f"{verdict.name[:58]:<58} {verdict.tried:>6} {verdict.survived:>8}  {mark:<6}  {verdict.detail}".rstrip()


def main() -> None:
    """Run the attacks and print their verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller attacks, as in CI")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MODULES):
        parser.error(f"unknown module {', '.join(sorted(unknown))}")
    start_time = time.monotonic()
    print(f"{'attack':<58} {'tried':>6} {'survived':>8}")
    verdicts: list[Verdict] = []
    for name in arguments.names or MODULES:
        for verdict in run_module(name, quick=arguments.quick):
            verdicts.append(verdict)
            print(format_verdict(verdict), flush=True)
    summary = {
        "attacks": len(verdicts),
        "tried": sum(verdict.tried for verdict in verdicts),
        "survived": sum(verdict.survived for verdict in verdicts),
        "broken": [verdict.name for verdict in verdicts if not verdict.has_held],
        "seconds": round(time.monotonic() - start_time, 1),
    }
    print(json.dumps(summary))
    sys.exit(1 if summary["broken"] else 0)


if __name__ == "__main__":
    main()
