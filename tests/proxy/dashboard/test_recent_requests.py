"""Summaries of the newest rows, for any valid rows."""

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.dashboard import recent_requests
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.tests.proxy.dashboard.generated import rows


@given(st.lists(rows(), max_size=6))
def test_rows_are_counted_without_shadow_checks(entries: list[Row]) -> None:
    summary = recent_requests.summarize_rows(entries)
    counted_rows = [row for row in entries if not row.shadow_of]
    assert summary["requests"] == len(counted_rows)
    assert sum(summary["latency_ms"]["counts"]) == sum(row.outcome == "ok" for row in counted_rows)
    assert summary["failed_open"] == sum('"late"' in row.skipped for row in counted_rows)


@given(st.lists(st.floats(0, 1e7), max_size=50))
def test_histogram_counts_every_value_once(values: list[float]) -> None:
    histogram = recent_requests.build_histogram(values, recent_requests.LATENCY_EDGES_MS)
    assert sum(histogram["counts"]) == len(values)
    assert histogram["counts"][0] == sum(value < recent_requests.LATENCY_EDGES_MS[0] for value in values)
    if values:
        assert set(histogram["percentiles"].values()) <= set(values)
        assert histogram["percentiles"]["p99"] <= max(values)
    else:
        assert histogram["percentiles"] is None


def test_malformed_columns_are_ignored() -> None:
    row = Row(id="r", at=1.0, passages='[{"kind":"tool"},5]', skipped="[1]")
    assert recent_requests.load_passages(row) == []
    assert recent_requests.load_skip_reasons(row) == {}
    assert recent_requests.load_passages(row._replace(passages="broken")) == []
