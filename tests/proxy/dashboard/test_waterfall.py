"""Steps from received to billed: they add up, and those of a span are the sum of its requests'."""

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


def adds_up(steps: dict[str, int]) -> bool:
    sent = steps["received"] - steps["left_out"] + steps["added"]
    billed = sent - steps["unbilled"] + steps["uncounted"] + steps["drift"]
    return (
        sent == steps["sent"]
        and billed == steps["billed"] == steps["full_price"] + steps["cache_read"] + steps["cache_write"]
    )


@given(rows())
def test_steps_of_a_request_add_up(row: Row) -> None:
    assert not [complaint for complaint in accounting.find_inconsistencies(row) if "passages" in complaint]
    steps = waterfall.compute_row_steps(row)
    assert adds_up(steps)
    assert steps["left_out"] >= 0
    assert steps["added"] >= 0


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows(), min_size=1, max_size=6, unique_by=lambda row: row.id))
async def test_steps_of_a_span_are_the_sum_of_its_requests(tmp_path: Path, entries: list[Row]) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / str(abs(hash(tuple(entries))))}.sqlite3")
    await ledger.start()
    try:
        for row in entries:
            ledger.write(row)
        await ledger.flush()
        (total,) = await ledger.read_totals("all")
        shadows = InputBill(*await ledger_queries.sum_shadow_bills(ledger, 0.0))
        steps = waterfall.compute_span_steps(total, await ledger.read_totals("kind"), shadows)
    finally:
        await ledger.stop()
    assert adds_up(steps)
    expected: Counter[str] = Counter(dict.fromkeys(steps, 0))
    for row in entries:
        # Only the bill of a failed request counts.
        is_counted = row.outcome in COUNTED_OUTCOMES
        counted_row = row if is_counted else row._replace(tokens_received=0, tokens_sent=0, passages="[]")
        if not row.shadow_of:
            expected.update(waterfall.compute_row_steps(counted_row))
    assert steps == expected
