"""What the newest rows tell, for any rows that the ledger accepts."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.dashboard import recent_requests
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.tests.proxy.dashboard.generated import rows


@given(st.lists(rows(), max_size=6))
def test_the_rows_are_counted_and_shadow_checks_are_nobodys(found: list[Row]) -> None:
    told = recent_requests.summarize_rows(found)
    theirs = [row for row in found if not row.shadow_of]
    assert told["requests"] == len(theirs)
    assert sum(told["latency_ms"]["counts"]) == sum(row.outcome == "ok" for row in theirs)
    assert told["failed_open"] == sum('"late"' in row.skipped for row in theirs)


@given(st.lists(st.floats(0, 1e7), max_size=50))
def test_every_value_lies_in_one_range_and_percentiles_are_values(values: list[float]) -> None:
    found = recent_requests.build_histogram(values, recent_requests.LATENCY_EDGES_MS)
    assert sum(found["counts"]) == len(values)
    assert found["counts"][0] == sum(value < recent_requests.LATENCY_EDGES_MS[0] for value in values)
    if values:
        assert set(found["percentiles"].values()) <= set(values)
        assert found["percentiles"]["p99"] <= max(values)
    else:
        assert found["percentiles"] is None


def test_what_makes_no_sense_in_a_row_is_left_out() -> None:
    row = Row(id="r", at=1.0, passages='[{"kind":"tool"},5]', skipped="[1]")
    assert recent_requests.load_passages(row) == []
    assert recent_requests.load_skip_reasons(row) == {}
    assert recent_requests.load_passages(row._replace(passages="broken")) == []
