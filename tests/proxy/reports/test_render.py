import csv
import io
import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.reports.columns import COLUMNS, TotalMapping, describe_details, summarize_total
from clara_proxy.proxy.reports.render import FORMATS, build_report, parse_since, render_report, sum_groups
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger import Ledger, TotalValue
from clara_proxy.proxy.stores.ledger_row import Passage, Row, encode_passages
from clara_proxy.proxy.stores.ledger_totals import read_dollars

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()
KNOWN: dict[str, TotalValue] = {
    "group": "gpt",
    "requests": 1_200,
    "failures": 3,
    "received": 2_345_550,
    "sent": 1_289_910,
    "saved": 1_055_640,
    "billed_input": 1_289_910,
    "billed_output": 22_800,
    "cache_read": 760_000,
    "cost_without": 4.362775,
    "cost": 2.502775,
    "saved_cost": 1.86,
    "drift_sent": 1_289_910,
    "drift_billed": 1_315_708,
    "drift_sent_estimated": 0,
    "drift_billed_estimated": 0,
    "unpriced": 0,
    "compressor_seconds": 2.337,
    "latency_ms": 80.0,
}
UNKNOWN: dict[str, TotalValue] = {
    "group": "mine",
    "requests": 2,
    "failures": 0,
    "received": 100,
    "sent": 140,
    "saved": -40,
    "billed_input": None,
    "billed_output": None,
    "cache_read": None,
    "cost_without": None,
    "cost": None,
    "saved_cost": None,
    "drift_sent": 0,
    "drift_billed": 0,
    "drift_sent_estimated": 1_000,
    "drift_billed_estimated": 900,
    "unpriced": 2,
    "compressor_seconds": 0.0,
    "latency_ms": 20.0,
}


def read_cells(page: str, group: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.strip("| ").startswith(group))
    return line.replace("|", " ").split()


@pytest.mark.parametrize("fmt", ["table", "md"])
def test_tables_show_known_and_unknown_values(fmt: str) -> None:
    page = render_report([KNOWN, UNKNOWN], fmt)
    assert read_cells(page, "gpt")[1] == "1,200"
    billed = "1.290M" if fmt == "table" else "1,289,910"
    money = ["4.3628", "2.5028", "1.8600"]
    assert read_cells(page, "gpt")[5:] == ["45.0", billed, "+2.0", "760,000", "22,800", *money, "0", "2.3", "3"]
    unknown = ["unknown", "~-10.0", *["unknown"] * 5]
    assert read_cells(page, "mine") == ["mine", "2", "100", "140", "-40", "-40.0", *unknown, "2", "0.0", "0"]
    assert read_cells(page, "total")[1] == "1,202"
    assert read_cells(page, "total")[7] == "+2.0"  # estimated counts are excluded
    partly = [f"{sum_}*" if fmt == "table" else f"{sum_}\\*" for sum_ in money]
    assert read_cells(page, "total")[10:14] == [*partly, "2"]
    assert "without the 2 requests whose price is unknown" in page


def test_tables_abbreviate_numbers_and_truncate_none() -> None:
    group = {**KNOWN, "group": "z" * 60, "received": 12_345_678_901, "sent": 999_999, "saved": 12_344_678_902}
    page = render_report([group], "table")
    assert "12.346G" in page
    assert "999,999" in page
    assert "…" not in page
    assert page.count("z") == 60


def test_json_and_csv_contain_exact_values() -> None:
    report = json.loads(render_report([KNOWN, UNKNOWN], "json"))
    drift = {"drift": pytest.approx(0.02, abs=1e-6), "drift_percent": pytest.approx(2.0, abs=1e-4)}
    none = {"drift_estimated": None, "drift_estimated_percent": None}
    assert report["groups"][0] == {**KNOWN, "saved_percent": pytest.approx(45.006, abs=0.001), **drift, **none}
    assert report["groups"][1]["cost"] is None
    assert (report["total"]["saved"], report["total"]["unpriced"], report["total"]["cost"]) == (1_055_600, 2, 2.502775)
    rows = list(csv.DictReader(io.StringIO(render_report([KNOWN, UNKNOWN], "csv"))))
    assert [row["group"] for row in rows] == ["gpt", "mine", "total"]
    assert [row["cost"] for row in rows] == ["2.502775", "", "2.502775"]
    assert [row["saved"] for row in rows] == ["1055640", "-40", "1055600"]


def test_a_given_total_is_list_table_lines() -> None:
    tools: list[dict[str, TotalValue]] = [{"group": "bash", "requests": 2, "received": 9, "sent": 4, "saved": 5}] * 2
    page = render_report(tools, "md", {**KNOWN, "group": "all", "requests": 2})
    assert read_cells(page, "bash") == ["bash", "2", "9", "4", "5", "55.6", *"-" * 10]
    assert read_cells(page, "total")[1:3] == ["2", "2,345,550"]


@pytest.mark.parametrize("fmt", FORMATS)
def test_an_empty_ledger_gives_an_empty_report(fmt: str) -> None:
    page = render_report([], fmt)
    assert "total" in page
    assert "nan" not in page


def test_an_unknown_format_is_rejected() -> None:
    with pytest.raises(ValueError, match="table, json, csv, md"):
        render_report([KNOWN], "xml")


def test_nothing_received_has_no_percentage() -> None:
    empty = {**UNKNOWN, "received": 0, "sent": 0, "saved": 0}
    assert read_cells(render_report([empty], "md"), "mine")[5] == "-"
    assert json.loads(render_report([empty], "json"))["groups"][0]["saved_percent"] is None


def test_labels_are_never_interpreted() -> None:
    label = "[red]a|b[/red]\x1b[31m\n=1+1"
    assert "[red]a|b[/red]?[31m?=1+1" in render_report([{**UNKNOWN, "group": label}], "table")
    assert "\x1b" not in render_report([{**UNKNOWN, "group": label}], "md")
    assert len(render_report([{**UNKNOWN, "group": label}], "md").splitlines()) == 4
    formula = list(csv.reader(io.StringIO(render_report([{**UNKNOWN, "group": "=1+1"}], "csv"))))
    assert formula[1][0] == "'=1+1"
    assert "(none)" in render_report([{**UNKNOWN, "group": ""}], "table")


def test_html_equals_the_table_and_escapes_labels() -> None:
    group = {**KNOWN, "group": "<script>x</script>"}
    page = render_report([group], "html")
    assert "<td>&lt;script&gt;x&lt;/script&gt;</td>" in page
    assert "<script" not in page
    label, *values = re.findall(r"<td>(.*?)</td>", page.split("</tr>")[1])
    assert label == "&lt;script&gt;x&lt;/script&gt;"
    assert values == read_cells(render_report([{**group, "group": "mine"}], "md"), "mine")[1:]


FREE: dict[str, TotalValue] = {"requests": 5, "cost": 0.0, "cost_without": 0.0, "saved_cost": 0.0}


@pytest.mark.parametrize("fmt", ["table", "md", "html"])
def test_zero_beside_unpriced_requests_is_unknown(fmt: str) -> None:
    # Four requests to a model without a price, and one free token count.
    page = render_report([{**UNKNOWN, **FREE, "unpriced": 4, "unpriced_savings": 5}], fmt)
    assert "0.0000" not in page
    assert page.count("unknown") >= 6


def test_a_known_zero_is_list_table_lines() -> None:
    # All requests were forwarded unchanged: nothing was saved, and that is known.
    total: dict[str, TotalValue] = {**KNOWN, "cost_without": 2.5, "cost": 2.5, "saved_cost": 0.0, "unpriced_savings": 0}
    assert [read_dollars(total, name) for name in ("cost_without", "cost", "saved_cost")] == [2.5, 2.5, 0.0]
    assert read_cells(render_report([total], "table"), "gpt")[10:13] == ["2.5000", "2.5000", "0.0000"]
    assert read_dollars({**KNOWN, **FREE, "unpriced": 0}, "cost") == 0.0


def test_small_savings_are_not_rounded_to_zero() -> None:
    small: dict[str, TotalValue] = {**KNOWN, "saved_cost": -0.000013}
    assert read_cells(render_report([small], "table"), "gpt")[12] == "-0.000013"
    assert "$0.000013 lost net" in summarize_total(small)


@pytest.mark.parametrize(
    ("total", "sentence"),
    [
        (KNOWN, "Saved 1,055,640 of 2,345,550 tokens (45.0 %), $1.8600 net."),
        ({**KNOWN, "saved_cost": -0.25}, "Saved 1,055,640 of 2,345,550 tokens (45.0 %), $0.2500 lost net."),
        (
            {**KNOWN, "saved": 1, "received": 8, "unpriced": 3},
            "Saved 1 of 8 tokens (12.5 %), $1.8600 net, without the 3 requests whose price is unknown.",
        ),
        (
            {**KNOWN, "cost": None, "cost_without": None, "saved_cost": None},
            "Saved 1,055,640 of 2,345,550 tokens (45.0 %); the saving in dollars is unknown.",
        ),
        (UNKNOWN, "Sent 40 tokens more than the 100 received (40.0 %)."),
        (
            {**KNOWN, "saved": 0, "saved_cost": 0.0, "would_save": 12_000},
            "Saved 0 of 2,345,550 tokens (0.0 %), $0.0000 net. Mode observe would have saved 12,000 more.",
        ),
        ({**UNKNOWN, "received": 0, "saved": 0}, "Saved 0 of 0 tokens."),
        ({}, "No requests in this period."),
    ],
)
def test_the_summary_sentence(total: dict[str, TotalValue], sentence: str) -> None:
    assert summarize_total(total) == sentence


def list_table_lines(page: str) -> list[str]:
    return [line for line in page.splitlines() if line and not line.startswith(("not shown", "* "))]


def test_a_narrow_table_omits_unimportant_columns() -> None:
    group = {**KNOWN, **{name: KNOWN.get(name, 7) for name in COLUMNS.values()}}
    pages = {width: render_report([group], "table", width=width) for width in (200, 125, 100, 80, 60)}
    assert "not shown" not in pages[200]
    assert all(len(line) <= width for width, page in pages.items() for line in list_table_lines(page))
    assert "not shown: compressor s (show all: --wide)" in pages[125]
    assert (
        "not shown: billed input, drift %, cached, output, cost without proxy $, no price, compressor s (show all"
        in pages[80]
    )
    for page in pages.values():  # nothing is truncated
        assert {"gpt", "1,200", "2.346M", "1.290M", "45.0", "1.8600"} <= set(page.split())


def test_empty_columns_are_omitted_first_and_failures_last() -> None:
    page = render_report([{**UNKNOWN, "failures": 5}], "table", width=80)
    assert "unknown" not in page
    assert (
        "not shown: billed input, cached, output, cost without proxy $, cost $, net saved $, no price (show all" in page
    )
    assert read_cells(page, "mine")[-2:] == ["0.0", "5"]
    assert read_cells(render_report([{**KNOWN, "failures": 5}], "table", width=70), "gpt")[-1] == "5"


def test_a_label_takes_one_line_in_a_terminal() -> None:
    group = {**KNOWN, "group": "z" * 5_000}
    line = next(line for line in render_report([group], "table", width=200).splitlines() if "zzz" in line)
    assert line.startswith(f" {'z' * 39}… ")
    assert render_report([group], "table", width=80).count("…") == 1
    assert render_report([group], "table").count("z") == 5_000


@given(st.integers(1, 300), st.text(max_size=60), st.integers(-(10**12), 10**12))
def test_numbers_are_whole_at_any_width(width: int, label: str, saved: int) -> None:
    group: dict[str, TotalValue] = {**KNOWN, "group": label, "saved": saved, "received": 10**12}
    narrow, wide = (render_report([group], "table", width=to) for to in (width, None))
    figures = {word for line in narrow.splitlines()[-5:] if " total " in line for word in line.split()}
    assert figures <= {word for line in wide.splitlines() for word in line.split()}
    if "not shown" in narrow:
        assert len(list_table_lines(narrow)[-1]) < len(list_table_lines(wide)[-1])


async def test_a_report_names_the_number_of_lost_rows(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'l.sqlite3'}"
    assert "lost" not in await build_report(url, "7d", "model", "table")
    ledger = Ledger(url, max_pending_rows=1, row_count_folder=tmp_path / "runs")
    await ledger.start()
    for number in range(3):
        ledger.write(apply_bill(Row(str(number), time.time(), model="m", tokens_received=5, tokens_sent=5), None, None))
    await ledger.stop()
    for fmt in ("table", "md", "html"):
        assert "2 rows were lost since this ledger was created" in await build_report(url, "7d", "model", fmt)
    json.loads(await build_report(url, "7d", "model", "json"))


async def test_a_report_shows_groups_and_the_total(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'l.sqlite3'}"
    assert read_cells(await build_report(url, "7d", "model", "md"), "total")[:2] == ["total", "-"]
    ledger = Ledger(url)
    await ledger.start()
    passages = encode_passages([Passage("log", "bash", 30, 20), Passage("log", "grep", 9, 9, "short")])
    for number, at in enumerate([time.time(), time.time() - 60, time.time() - 7200]):
        row = Row(str(number), at, model="m", tokens_received=50, tokens_sent=40, passages=passages)
        ledger.write(apply_bill(row, None, None))
    await ledger.stop()
    page = await build_report(url, "1h", "tool", "md")
    assert read_cells(page, "bash")[:5] == ["bash", "2", "60", "40", "20"]
    assert read_cells(page, "grep")[:5] == ["grep", "2", "18", "18", "0"]
    assert read_cells(page, "total")[:5] == ["total", "2", "100", "80", "20"]


@pytest.mark.parametrize(("span", "by", "fmt"), [("x", "all", "md"), ("1h", "x", "md"), ("1h", "all", "x")])
async def test_invalid_report_arguments_are_rejected(tmp_path: Path, span: str, by: str, fmt: str) -> None:
    with pytest.raises(ValueError, match="'x'"):
        await build_report(f"sqlite:///{tmp_path / 'l.sqlite3'}", span, by, fmt)


TOTALS = st.dictionaries(st.sampled_from(["requests", "saved", "cost"]), st.none() | st.integers(-99, 99))


@given(st.lists(TOTALS))
def test_sums_ignore_unknown_values(groups: list[dict[str, TotalValue]]) -> None:
    total = sum_groups(groups)
    for name in ("requests", "saved", "cost"):
        known = [value for group in groups if isinstance(value := group.get(name), int)]
        assert total.get(name) == (sum(known) if known else None)


# periods


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1_800), ("24h", 86_400), ("7d", 604_800), (" 2w ", 1_209_600), ("0d", 0)]
)
def test_durations_are_relative_to_now(text: str, seconds: int) -> None:
    assert parse_since(text, NOW) == NOW - seconds


@pytest.mark.parametrize(
    ("text", "back"),
    [
        ("2026-11-30", 43_200),
        ("2026-11-29", 129_600),
        ("2026-11-30T11:00", 3_600),
        ("2026-11-30T11:00:00Z", 3_600),
        ("2026-11-30 13:00+02:00", 3_600),
    ],
)
def test_dates_are_utc_by_default(text: str, back: int) -> None:
    assert parse_since(text, NOW) == NOW - back


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)))
def test_every_iso_time_is_parsed(at: datetime) -> None:
    assert parse_since(at.isoformat(), 0.0) == at.timestamp()


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-7d", "7y", "yesterday", "2026-13-01", "1e3d", "٧d", "9" * 99])
def test_invalid_times_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="30m, 24h, 7d, 2w or a date"):
        parse_since(text, NOW)


def test_the_way_back_and_cache_misses_are_described() -> None:
    total: TotalMapping = {
        "expand_tokens": 20_184,
        "expand_cost": 0.028,
        "cost": 1.0,
        "cache_misses": 12,
        "cache_misses_ours": 3,
    }
    assert describe_details({**total, "unknown_usages": 2}) == [
        "Cost of the way back (clara_expand and its calls): 20,184 tokens, $0.0280, included.",
        "The provider's cache missed in 12 requests, 3 after a change by the proxy.",
        "The usage of 2 requests has amounts that the proxy does not know (unknown_usage).",
    ]
    assert describe_details({**total, "expand_cost": None})[0].endswith("tokens, at an unknown cost, included.")
    assert describe_details({"expand_tokens": 0, "cache_misses": 0}) == []
