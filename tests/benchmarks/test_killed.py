"""Three rounds of the benchmark that kills writers; it asserts for itself what must hold."""

from pathlib import Path

import pytest

from clara_proxy.benchmarks.killed import StoreLocations, kill_child
from clara_proxy.tests.servers import Postgres, Redis


async def _three(stores: StoreLocations, caplog: pytest.LogCaptureFixture) -> None:
    rounds = [await kill_child(stores, f"run{number}", seconds) for number, seconds in enumerate((0.1, 0.4, 0.7))]
    assert all(one.handed > one.lost > 0 for one in rounds[1:])
    assert f"killed, and with it {rounds[-1].lost} rows" in caplog.text


async def test_files_survive_being_killed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [f"sqlite:///{tmp_path / name}" for name in ("ledger.sqlite3", "originals.sqlite3")]
    await _three(StoreLocations(files[0], files[1], tmp_path / "runs"), caplog)
    assert not list((tmp_path / "runs").iterdir())


async def test_servers_survive_it_too(
    tmp_path: Path, postgres: Postgres, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await _three(StoreLocations(postgres.reset_database(), redis.reset_database(), tmp_path / "runs"), caplog)
