"""`kill -9` under load, again and again: what is lost, is it what the next start says, and is anything broken?

    python -m clara_proxy.benchmarks.killed --rounds 50 [--ledger URL] [--originals URL]

Each round a child writes some two thousand rows a second and stores originals, and is killed at a moment nobody chose.
Then its successor opens the same stores. The last line is JSON. It fails where a row that is older than a second is
missing, the count of lost rows is wrong, an original that was promised is gone, or a store does not add up.
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
from dataclasses import asdict, dataclass
from pathlib import Path

from ..proxy.stores.accounting import apply_bill
from ..proxy.stores.ledger import Ledger
from ..proxy.stores.ledger_audit import audit
from ..proxy.stores.ledger_row import Passage, Row, encode_passages
from ..proxy.stores.originals import Originals

BURST_ROWS = 20  # rows that are written at once
OWNER = "owner"


@dataclass(frozen=True, slots=True)
class StoreLocations:
    """Where a round writes: the ledger, the originals, and what processes note of their rows."""

    ledger: str
    originals: str
    row_count_folder: Path


@dataclass(frozen=True, slots=True)
class KillResult:
    """What a round left: rows handed over, rows lost, and the seconds that the oldest lost one was old."""

    handed: int
    lost: int
    oldest: float
    originals: int


async def run_child(stores: StoreLocations, name: str) -> None:
    """Write until killed; of each burst say when it was written, and which original was stored."""
    ledger, originals = (
        Ledger(stores.ledger, row_count_folder=stores.row_count_folder),
        Originals(stores.originals, 86_400),
    )
    await ledger.start()
    await originals.start()
    seen = encode_passages([Passage("log", "bash", 130, 100)])
    for number in range(10**9):
        for part in range(BURST_ROWS):
            row = Row(f"{name}-{number}-{part}", time.time(), tokens_received=130, tokens_sent=100, passages=seen)
            ledger.write(apply_bill(row, None, None))
        written = time.monotonic()
        kept = (await originals.put(OWNER, [f"{name} {number} " + "x" * 2_000]))[0]
        print(number, written, kept, flush=True)
        await asyncio.sleep(0.01)


async def kill_child(stores: StoreLocations, name: str, seconds: float) -> KillResult:
    """Run a child, kill it after so many seconds of writing, and see what its successor finds."""
    command = [sys.executable, "-m", "clara_proxy.benchmarks.killed", "--child", name]
    command += ["--ledger", stores.ledger, "--originals", stores.originals, "--tally", str(stores.row_count_folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        said = [await process.stdout.readline()]
        await asyncio.sleep(seconds)
    finally:
        killed = time.monotonic()
        os.kill(process.pid, 9)
    said += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    return await _check_stores(stores, name, [line.decode().split() for line in said if line.endswith(b"\n")], killed)


async def _check_stores(stores: StoreLocations, name: str, said: list[list[str]], killed: float) -> KillResult:
    before = await _count_lost_rows(stores.ledger)
    ledger = Ledger(stores.ledger, row_count_folder=stores.row_count_folder)
    await ledger.start()
    try:
        stored = {row.id async for row in ledger.iter_rows() if row.id.startswith(f"{name}-")}
        wrong = [finding async for finding in audit(ledger) if finding.problem]
        lost = ledger.previously_lost_rows - before
    finally:
        await ledger.stop()
    missing = [
        float(written)
        for number, written, _ in said
        for part in range(BURST_ROWS)
        if f"{name}-{number}-{part}" not in stored
    ]
    oldest = killed - min(missing, default=killed)
    handed = len(stored) + lost
    assert not wrong, f"the ledger does not add up: {wrong}"
    assert oldest < 1.0, f"a row of {oldest:.2f} s is lost"
    # What was not said any more may have been written: the last bursts.
    assert len(missing) <= lost, f"{len(missing)} rows are missing, the ledger says {lost}"
    assert len(said) * BURST_ROWS <= handed <= (len(said) + 1) * BURST_ROWS, f"{handed} rows of {len(said)} bursts"
    await _check_originals(stores.originals, [kept for *_, kept in said])
    return KillResult(handed, lost, oldest, len(said))


async def _count_lost_rows(url: str) -> int:
    ledger = Ledger(url)
    await ledger.start()
    try:
        return await ledger.count_lost_rows()
    finally:
        await ledger.stop()


async def _check_originals(where: str, names: list[str]) -> None:
    originals = Originals(where, 86_400)
    await originals.start()
    try:
        gone = [name for name in names if await originals.get(OWNER, name) is None]
    finally:
        await originals.stop()
    assert not gone, f"{len(gone)} originals that were promised are gone"


async def main() -> None:
    """Run the rounds, or one child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    for name in ("--child", "--ledger", "--originals", "--tally"):
        parser.add_argument(name)
    asked = parser.parse_args()
    if asked.child:
        await run_child(StoreLocations(asked.ledger, asked.originals, Path(asked.tally)), asked.child)
    with tempfile.TemporaryDirectory() as folder:
        stores = StoreLocations(
            asked.ledger or f"sqlite:///{folder}/ledger.sqlite3",
            asked.originals or f"sqlite:///{folder}/originals.sqlite3",
            Path(asked.tally or folder),
        )
        moments = random.Random(asked.seed)
        rounds: list[KillResult] = []
        for number in range(asked.rounds):
            rounds.append(await kill_child(stores, f"run{number}", moments.uniform(0.05, 1.5)))
            print(asdict(rounds[-1]))
    handed, lost = sum(one.handed for one in rounds), sum(one.lost for one in rounds)
    oldest = round(max(one.oldest for one in rounds), 3)
    kept = sum(one.originals for one in rounds)
    print(json.dumps({"rounds": len(rounds), "rows": handed, "lost": lost, "oldest_lost_s": oldest, "originals": kept}))


if __name__ == "__main__":
    asyncio.run(main())
