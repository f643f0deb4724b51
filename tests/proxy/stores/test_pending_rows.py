"""Rows that are built later: none is lost, and everything that reads rows sees all of them in order."""

import logging
from functools import partial
from pathlib import Path

import pytest

from clara_proxy.proxy.stores import pending_rows
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.pending_rows import BATCH_ROWS, PendingRows
from clara_proxy.proxy.watch.metrics import Metrics
from clara_proxy.tests.proxy.stores.ledgers import row

TEXT = "a client's text"


def fail() -> Row:
    raise RuntimeError(TEXT)


def test_rows_keep_their_order_whenever_they_are_built() -> None:
    rows, seen = [row() for _ in range(5)], list[Row]()
    pending = PendingRows(10)
    pending.observers.append(seen.append)
    pending.add_later(lambda: rows[0])
    pending.add_later(lambda: rows[1])
    assert (seen, len(pending)) == ([], 2)
    pending.add(rows[2])
    pending.add_later(lambda: rows[3])
    pending.put_back([rows[4]])
    assert seen == rows[:4]
    assert pending.take() == [rows[4], *rows[:4]]
    assert len(pending) == 0


def test_a_full_batch_is_built_at_once() -> None:
    seen: list[Row] = []
    pending = PendingRows(1000)
    pending.observers.append(seen.append)
    for _ in range(BATCH_ROWS):
        pending.add_later(row)
    assert len(seen) == BATCH_ROWS


def test_rows_without_room_count_as_lost() -> None:
    pending = PendingRows(2)
    for _ in range(3):
        pending.add_later(row)
    stored = pending.take()
    pending.add(row())
    pending.put_back(stored)
    assert (len(stored), len(pending), pending.lost_rows) == (2, 2, 2)


def test_a_row_that_cannot_be_built_costs_no_other(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_rows, "log", logging.getLogger("pending"))
    pending = PendingRows(10)
    for build in (row, fail, row):
        pending.add_later(build)
    assert (len(pending.take()), pending.lost_rows) == (2, 1)
    assert "RuntimeError" in caplog.text
    assert TEXT not in caplog.text


async def test_metrics_reports_and_crash_counts_include_rows_that_are_not_built(tmp_path: Path) -> None:
    async with Ledger(
        f"sqlite:///{tmp_path / 'ledger.sqlite3'}", flush_interval=60.0, row_count_folder=tmp_path / "runs"
    ) as ledger:
        metrics = Metrics(ledger)
        ledger.observers.append(metrics.record_row)
        for number in range(3):
            ledger.write_later(partial(row, at=float(number)))
        (count_file,) = (tmp_path / "runs").glob("*.rows")
        assert int.from_bytes(count_file.read_bytes(), "little") == 3
        assert ledger.waiting_rows == 3
        assert b'clara_requests_total{mode="extract",model="m",outcome="ok",protocol=""} 3.0' in (
            await metrics.render_page()
        )
        await ledger.flush()
        assert [stored.at for stored in await ledger.read_newest_rows()] == [2.0, 1.0, 0.0]
        assert (ledger.waiting_rows, ledger.lost_rows) == (0, 0)
