"""A store that fails is seen on `/readyz`, in the metrics and in the log, also without requests."""

import logging
import shutil
import time
from pathlib import Path

import httpx
import pytest

from clara_proxy.proxy.runtime import store_health
from clara_proxy.proxy.runtime.store_health import StoreHealth
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.originals import Originals, OriginalsError
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import TIMEOUT, Proxy, tool_chat


def wait_for_readiness(proxy: Proxy, status: int) -> httpx.Response:
    deadline = time.monotonic() + TIMEOUT
    while (answer := httpx.get(f"{proxy.url}/readyz")).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.02)
    return answer


def test_a_removed_data_directory_is_noticed(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_health, "CHECK_INTERVAL", 0.02)
    folder = tmp_path / "data"
    with running.run_proxy(upstream.url, folder) as proxy:
        assert wait_for_readiness(proxy, 200).json() == {"status": "ready"}
        shutil.rmtree(folder)
        deadline = time.monotonic() + running.TIMEOUT
        while (answer := wait_for_readiness(proxy, 503)).json()["stores"].keys() != {"ledger", "originals"}:
            assert time.monotonic() < deadline, answer.text  # the stores are checked one after the other
        assert str(tmp_path) not in answer.text
        chat = proxy.post(tool_chat(), x_clara_retrieve="url")
        assert (chat.status_code, chat.headers["x-clara-skipped"]) == (200, "failed=1")
        page = httpx.get(f"{proxy.url}/metrics").text
        assert 'clara_store_up{store="ledger"} 0.0' in page
        assert 'clara_store_up{store="originals"} 0.0' in page
        while "clara_ledger_waiting_rows 1.0" not in (page := httpx.get(f"{proxy.url}/metrics").text):
            assert time.monotonic() < deadline, page


async def test_a_store_is_logged_when_it_fails_and_when_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception] = []

    async def check() -> None:
        if errors:
            raise errors[0]

    health = StoreHealth({"ledger": check})
    await health.check_all()
    errors.append(OriginalsError("the disk is gone"))
    await health.check_all()
    await health.check_all()
    assert health.problems == {"ledger": "the disk is gone"}
    assert health.store_states == {"ledger": False}
    errors.clear()
    await health.check_all()
    assert health.store_states == {"ledger": True}
    levels = [record.levelno for record in caplog.records]
    assert levels == [logging.ERROR, logging.WARNING]


async def test_a_ledger_that_cannot_store_rows_fails_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(f"sqlite:///{tmp_path}/ledger.sqlite3", flush_interval=0.01) as ledger:
        await ledger.check()
        monkeypatch.setattr(ledger.dialect, "insert_rows", raise_full)
        ledger.write(Row(id="1", at=1.0))
        await ledger.flush()
        assert ledger.waiting_rows == 1
        with pytest.raises(OSError, match="cannot be stored"):
            await ledger.check()
        monkeypatch.undo()
        await ledger.flush()
        await ledger.check()
        assert ledger.waiting_rows == 0


async def raise_full(*_: object) -> list[str]:
    raise OSError("the disk is full")


async def test_originals_that_cannot_be_written_fail_their_check_until_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    originals = Originals(tmp_path / "originals.sqlite3", 60)
    await originals.start()
    await originals.check()
    monkeypatch.setattr(originals._store, "insert_entries", raise_unreachable)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(OriginalsError):
        await originals.put("owner", ["text"])
    with pytest.raises(OriginalsError):
        await originals.check()
    monkeypatch.undo()
    await originals.check()
    await originals.stop()


async def raise_unreachable(*_: object) -> None:
    raise OriginalsError("unreachable")
