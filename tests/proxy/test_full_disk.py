"""A disk that fills up while the proxy runs: requests continue, and the log contains SQLite's message once."""

import sqlite3
from pathlib import Path

import pytest

from clara_proxy.proxy.stores.originals_sqlite import SqliteStore
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import LOG_TEXT, tool_chat


def test_a_full_disk_is_logged_once_and_requests_continue(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raise_full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with running.run_proxy(upstream.url, tmp_path) as proxy:
        monkeypatch.setattr(SqliteStore, "_insert_entries", raise_full)
        for number in range(5):
            answer = proxy.post(tool_chat(f"{LOG_TEXT}\n{number}"))
            assert (answer.status_code, answer.headers["x-clara-skipped"]) == (200, "failed=1")
            assert upstream.last_request.json["messages"][2]["content"].startswith(LOG_TEXT)
    log = capsys.readouterr().err.splitlines()
    warnings = [line for line in log if "store_health" not in line]  # which notices the disk by itself, once
    assert len(warnings) == 1
    assert "database or disk is full" in warnings[0]
    assert len(log) <= 2
