"""What is gathered for a span: the ledger's own totals, in both databases, asked for once however many look."""

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
    fresh = Row(id=f"r{number}", at=at, model=f"m{number % 3}", mode_used="extract", passages=passages)
    usage = Usage(140, 10, None, 64)
    return apply_bill(fresh._replace(tokens_received=200, tokens_sent=140), usage, PRICE, Usage(200, 10, None, 64))


def looking(ledger: Ledger) -> Overview:
    held = SimpleNamespace(
        ledger=ledger, clara=None, auto_mode="extract", settings=SimpleNamespace(keep_content="none")
    )
    return Overview(cast("Services", held))


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_every_span_shows_what_the_ledger_adds_up(
    kind: str, tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    clock = SimpleNamespace(time=lambda: now, monotonic=time.monotonic)  # a bar must not end meanwhile
    monkeypatch.setattr("clara_proxy.proxy.dashboard.overview.time", clock)
    ledger = Ledger(postgres.reset_database() if kind == "postgres" else f"sqlite:///{tmp_path / 'l.sqlite3'}")
    await ledger.start()
    try:
        for number in range(40):
            ledger.write(row(number, now - number**2 * 3600.0))
        ledger.write(mark_as_shadow(row(100, now), "r0", {"tools": 1.0, "text": 0.5}))
        overview = looking(ledger)
        for name, span in TIME_SPANS.items():
            seen: Any = orjson.loads(orjson.dumps(await overview.get_overview(name)))
            (total,) = await ledger.read_totals("all", span.compute_start(now))
            assert seen["total"] == orjson.loads(orjson.dumps(total))
            for figure in ("requests", "received", "sent", "saved"):
                assert sum(bar[figure] for bar in seen["series"]) == total[figure], (name, figure)
            assert seen["steps"]["sent"] == total["sent"]
            assert seen["steps"]["drift"] == seen["steps"]["unbilled"] == seen["steps"]["uncounted"] == 0
            assert seen["newest"]["requests"] == total["requests"]
            assert seen["shadows"]["checks"] == 1
            assert {one["group"] for one in seen["groups"]["tool"]} <= {"t0", "t1"}
    finally:
        await ledger.stop()


async def test_the_ledger_is_asked_once_however_many_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'l.sqlite3'}")
    await ledger.start()
    try:
        overview = looking(ledger)
        first = await overview.get_overview("all")
        assert first["total"] is None
        ledger.write(row(1, time.time()))
        assert await overview.get_overview("all") is first
        monkeypatch.setattr("clara_proxy.proxy.dashboard.overview.CACHE_SECONDS", -1.0)
        assert (await overview.get_overview("all"))["total"]["requests"] == 1
    finally:
        await ledger.stop()


def test_a_span_begins_with_a_whole_bar() -> None:
    day = 86_400.0
    assert TimeSpan(7 * day, day).compute_start(100.5 * day) == 94 * day
    assert TimeSpan(3600, 300).compute_start(7300.0) == 3900.0
    assert TIME_SPANS["all"].compute_start(day) == 0.0
