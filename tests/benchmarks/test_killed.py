"""Three rounds of the benchmark that kills writers, which checks its own results."""

from pathlib import Path

import pytest

from clara_proxy.benchmarks.killed import StoreLocations, kill_child
from clara_proxy.tests.servers import Postgres, Redis

SECONDS = (0.1, 0.4, 0.7)  # until each child is killed


async def run_three_rounds(stores: StoreLocations, caplog: pytest.LogCaptureFixture) -> None:
    rounds = [await kill_child(stores, f"run{number}", seconds) for number, seconds in enumerate(SECONDS)]
    assert all(result.handed > result.lost > 0 for result in rounds[1:])
    assert f"killed before it had stored {rounds[-1].lost} rows" in caplog.text


async def test_files_survive_killed_writers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger, originals = (f"sqlite:///{tmp_path / name}" for name in ("ledger.sqlite3", "originals.sqlite3"))
    await run_three_rounds(StoreLocations(ledger, originals, tmp_path / "runs"), caplog)
    assert not list((tmp_path / "runs").iterdir())


async def test_servers_survive_killed_writers(
    tmp_path: Path, postgres: Postgres, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    stores = StoreLocations(postgres.reset_database(), redis.reset_database(), tmp_path / "runs")
    await run_three_rounds(stores, caplog)
