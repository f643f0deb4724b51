"""The next start after a killed process: lost rows cause a warning."""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clara_proxy.proxy.stores.ledger import Ledger


@pytest.mark.parametrize("rows", [0, 3])
async def test_only_lost_rows_of_a_killed_process_cause_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr("clara_proxy.proxy.stores.ledger.log", logging.getLogger("killed"))
    lost = -1
    for _ in range(2):
        ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}", row_count_folder=tmp_path / "runs")
        await ledger.start()
        lost = ledger.previously_lost_rows
        await ledger.stop()
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as database, database:
            database.execute("INSERT OR IGNORE INTO ledger_runs (run, settled, lost, killed) VALUES ('r', 0, 0, 0)")
        (tmp_path / "runs" / "r.rows").write_bytes(rows.to_bytes(8, "little"))
    assert lost == rows
    assert [record.levelname for record in caplog.records] == (["WARNING"] if rows else [])
