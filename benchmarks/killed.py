"""Kill a writing process with `kill -9`, and check the stores after the next start.

    python -m clara_proxy.benchmarks.killed --rounds 50 [--ledger URL] [--originals URL]

In each round a child process writes about two thousand ledger rows a second and stores originals, until it is killed
after a random time. Then the stores are opened again. The benchmark fails if a row older than one second is missing,
the number of lost rows is wrong, a stored original is missing, or the ledger's totals are inconsistent. It prints a
table; the last line is JSON.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..proxy.stores.accounting import apply_bill
from ..proxy.stores.ledger import Ledger
from ..proxy.stores.ledger_audit import audit
from ..proxy.stores.ledger_row import Passage, Row, encode_passages
from ..proxy.stores.originals import Originals

BURST_ROWS = 20  # rows written at once
OWNER = "owner"


@dataclass(frozen=True, slots=True)
class StoreLocations:
    """The URLs of the ledger and the originals, and the folder of the processes' row counts."""

    ledger: str
    originals: str
    row_count_folder: Path


@dataclass(frozen=True, slots=True)
class KillResult:
    """One round: rows written to the ledger, rows lost, age of the oldest lost row in seconds, originals stored."""

    handed: int
    lost: int
    oldest: float
    originals: int


async def run_child(stores: StoreLocations, name: str) -> None:
    """Write until killed. Print a line for each burst: its number, its time, and the id of the stored original."""
    ledger = Ledger(stores.ledger, row_count_folder=stores.row_count_folder)
    originals = Originals(stores.originals, 86_400)
    await ledger.start()
    await originals.start()
    passages = encode_passages([Passage("log", "bash", 130, 100)])
    for number in range(10**9):
        for part in range(BURST_ROWS):
            row = Row(f"{name}-{number}-{part}", time.time(), tokens_received=130, tokens_sent=100, passages=passages)
            ledger.write(apply_bill(row, None, None))
        burst_time = time.monotonic()
        original_id = (await originals.put(OWNER, [f"{name} {number} " + "x" * 2_000]))[0]
        print(number, burst_time, original_id, flush=True)
        await asyncio.sleep(0.01)


async def kill_child(stores: StoreLocations, name: str, seconds: float) -> KillResult:
    """Run a child, kill it after `seconds` of writing, and check the stores."""
    command = [sys.executable, "-m", "clara_proxy.benchmarks.killed", "--child", name]
    command += ["--ledger", stores.ledger, "--originals", stores.originals, "--tally", str(stores.row_count_folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        lines = [await process.stdout.readline()]
        await asyncio.sleep(seconds)
    finally:
        kill_time = time.monotonic()
        os.kill(process.pid, 9)
    lines += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    bursts = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return await _check_stores(stores, name, bursts, kill_time)


async def _check_stores(stores: StoreLocations, name: str, bursts: list[list[str]], kill_time: float) -> KillResult:
    before = await _count_lost_rows(stores.ledger)
    ledger = Ledger(stores.ledger, row_count_folder=stores.row_count_folder)
    await ledger.start()
    try:
        stored_ids = {row.id async for row in ledger.iter_rows() if row.id.startswith(f"{name}-")}
        problems = [finding async for finding in audit(ledger) if finding.problem]
        lost = ledger.previously_lost_rows - before
    finally:
        await ledger.stop()
    missing_times = [
        float(burst_time)
        for number, burst_time, _ in bursts
        for part in range(BURST_ROWS)
        if f"{name}-{number}-{part}" not in stored_ids
    ]
    oldest = kill_time - min(missing_times, default=kill_time)
    handed = len(stored_ids) + lost
    assert not problems, f"the ledger is inconsistent: {problems}"
    assert oldest < 1.0, f"the oldest lost row is {oldest:.2f} s old; at most 1 s is allowed"
    # The child may have written one more burst than it printed.
    assert len(missing_times) <= lost, f"{len(missing_times)} rows are missing, but the ledger reports {lost}"
    assert 0 <= handed - len(bursts) * BURST_ROWS <= BURST_ROWS, f"{handed} rows for {len(bursts)} bursts"
    await _check_originals(stores.originals, [original_id for *_, original_id in bursts])
    return KillResult(handed, lost, oldest, len(bursts))


async def _count_lost_rows(url: str) -> int:
    ledger = Ledger(url)
    await ledger.start()
    try:
        return await ledger.count_lost_rows()
    finally:
        await ledger.stop()


async def _check_originals(url: str, ids: list[str]) -> None:
    originals = Originals(url, 86_400)
    await originals.start()
    try:
        missing = [original_id for original_id in ids if await originals.get(OWNER, original_id) is None]
    finally:
        await originals.stop()
    assert not missing, f"{len(missing)} of {len(ids)} stored originals are missing"


async def main() -> None:
    """Run the rounds, print the table, and end with one line of JSON; with `--child`, write until killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="seed of the random times")
    parser.add_argument("--ledger", metavar="URL", help="ledger (default: a temporary SQLite file)")
    parser.add_argument("--originals", metavar="URL", help="originals (default: a temporary SQLite file)")
    parser.add_argument("--tally", metavar="FOLDER", help="folder of the row counts (default: a temporary folder)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        await run_child(StoreLocations(options.ledger, options.originals, Path(options.tally)), options.child)
    results: list[KillResult] = []
    with tempfile.TemporaryDirectory() as folder:
        stores = StoreLocations(
            options.ledger or f"sqlite:///{folder}/ledger.sqlite3",
            options.originals or f"sqlite:///{folder}/originals.sqlite3",
            Path(options.tally or folder),
        )
        rng = random.Random(options.seed)
        print(f"{'round':>5}{'rows':>8}{'lost':>8}{'oldest lost s':>15}{'originals':>11}")
        for number in range(options.rounds):
            result = await kill_child(stores, f"run{number}", rng.uniform(0.05, 1.5))
            results.append(result)
            print(f"{number:5}{result.handed:8}{result.lost:8}{result.oldest:15.3f}{result.originals:11}", flush=True)
    figures = {
        "rounds": len(results),
        "rows": sum(result.handed for result in results),
        "lost": sum(result.lost for result in results),
        "oldest_lost_s": round(max(result.oldest for result in results), 3),
        "originals": sum(result.originals for result in results),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main())
