"""Overviews of a time span: equal to the ledger's totals in both databases, and cached."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from clara_proxy.config.prices import Price
from clara_proxy.proxy.dashboard.overview import TIME_SPANS, Overview, TimeSpan
from clara_proxy.proxy.runtime.services import Services
from clara_proxy.proxy.stores.accounting import apply_bill, mark_as_shadow
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Passage, Row, encode_passages
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.tests.servers import Postgres

PRICE = Price(input=2e-6, output=8e-6, cache_read=5e-7)


def row(number: int, at: float) -> Row:
    passages = encode_passages([Passage("tool", f"t{number % 2}", 100, 40)])
    unbilled = Row(id=f"r{number}", at=at, model=f"m{number % 3}", mode_used="extract", passages=passages)
    usage = Usage(140, 10, None, 64)
    return apply_bill(unbilled._replace(tokens_received=200, tokens_sent=140), usage, PRICE, Usage(200, 10, None, 64))


def create_overview(ledger: Ledger) -> Overview:
    services = SimpleNamespace(
        ledger=ledger, clara=None, auto_mode="extract", settings=SimpleNamespace(keep_content="none")
    )
    return Overview(cast("Services", services))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_overview_equals_the_totals_of_the_ledger(
    kind: str, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    clock = SimpleNamespace(time=lambda: now, monotonic=time.monotonic)  # a bar must not end during the test
    monkeypatch.setattr("clara_proxy.proxy.dashboard.overview.time", clock)
    ledger = Ledger(postgres.reset_database() if kind == "postgres" else f"sqlite:///{tmp_path / 'l.sqlite3'}")
    await ledger.start()
    try:
        for number in range(40):
            ledger.write(row(number, now - number**2 * 3600.0))
        ledger.write(mark_as_shadow(row(100, now), "r0", {"tools": 1.0, "text": 0.5}))
        overview = create_overview(ledger)
        for name, span in TIME_SPANS.items():
            data: Any = orjson.loads(orjson.dumps(await overview.get_overview(name)))
            (total,) = await ledger.read_totals("all", span.compute_start(now))
            assert data["total"] == orjson.loads(orjson.dumps(total))
            for figure in ("requests", "received", "sent", "saved"):
                assert sum(bar[figure] for bar in data["series"]) == total[figure], (name, figure)
            assert data["steps"]["sent"] == total["sent"]
            assert data["steps"]["drift"] == data["steps"]["unbilled"] == data["steps"]["uncounted"] == 0
            assert data["newest"]["requests"] == total["requests"]
            assert data["shadows"]["checks"] == 1
            assert {total["group"] for total in data["groups"]["tool"]} <= {"t0", "t1"}
    finally:
        await ledger.stop()


async def test_overview_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'l.sqlite3'}")
    await ledger.start()
    try:
        overview = create_overview(ledger)
        first = await overview.get_overview("all")
        assert first["total"] is None
        ledger.write(row(1, time.time()))
        assert await overview.get_overview("all") is first
        monkeypatch.setattr("clara_proxy.proxy.dashboard.overview.CACHE_SECONDS", -1.0)
        assert (await overview.get_overview("all"))["total"]["requests"] == 1
    finally:
        await ledger.stop()


def test_span_starts_with_a_whole_bar() -> None:
    day = 86_400.0
    assert TimeSpan(7 * day, day).compute_start(100.5 * day) == 94 * day
    assert TimeSpan(3600, 300).compute_start(7300.0) == 3900.0
    assert TIME_SPANS["all"].compute_start(day) == 0.0
