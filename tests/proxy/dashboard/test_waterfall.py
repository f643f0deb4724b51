"""From received to billed: every way adds up, and that of a span is the sum of its requests'."""

from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.dashboard import waterfall
from clara_proxy.proxy.dashboard.waterfall import InputBill
from clara_proxy.proxy.stores import accounting, ledger_queries
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import COUNTED_OUTCOMES, Row
from clara_proxy.tests.proxy.dashboard.generated import rows


def adds_up(way: dict[str, int]) -> bool:
    sent = way["received"] - way["left_out"] + way["added"]
    billed = sent - way["unbilled"] + way["uncounted"] + way["drift"]
    return sent == way["sent"] and billed == way["billed"] == way["full_price"] + way["cache_read"] + way["cache_write"]


@given(rows())
def test_the_way_of_a_request_adds_up(row: Row) -> None:
    assert not [complaint for complaint in accounting.find_inconsistencies(row) if "passages" in complaint]
    way = waterfall.compute_row_steps(row)
    assert adds_up(way)
    assert way["left_out"] >= 0
    assert way["added"] >= 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows(), min_size=1, max_size=6, unique_by=lambda row: row.id))
async def test_the_way_of_a_span_is_the_sum_of_its_requests(tmp_path: Path, found: list[Row]) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / str(abs(hash(tuple(found))))}.sqlite3")
    await ledger.start()
    try:
        for row in found:
            ledger.write(row)
        await ledger.flush()
        (total,) = await ledger.read_totals("all")
        shadows = InputBill(*await ledger_queries.sum_shadow_bills(ledger, 0.0))
        way = waterfall.compute_span_steps(total, await ledger.read_totals("kind"), shadows)
    finally:
        await ledger.stop()
    assert adds_up(way)
    expected: Counter[str] = Counter(dict.fromkeys(way, 0))
    for row in found:
        came_to_something = row.outcome in COUNTED_OUTCOMES
        whole = row if came_to_something else row._replace(tokens_received=0, tokens_sent=0, passages="[]")
        if not row.shadow_of:
            expected.update(
                waterfall.compute_row_steps(whole)
            )  # of a request that came to nothing, only its bill counts
    assert way == expected
