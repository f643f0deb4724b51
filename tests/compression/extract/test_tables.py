"""Tables: recognised formats, and the rows that are kept."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Gap
from clara_proxy.compression.extract import table_parser
from clara_proxy.compression.extract.tables import DEFAULT_TABLE_WEIGHTS, TableCompressor, find_rows_with_value
from clara_proxy.compression.markers import render

from .samples import CODE, LISTING, LOG, PROSE, SEARCH, TESTS, count_left_out, list_pieces, run_compressor

HEADER = ["order_id", "city", "amount", "status", "note"]
ROWS = [
    [
        str(1000 + index),
        ("Oslo", "Lima", "Kyiv")[index % 3],
        f"{50 + index % 7}.25",
        ("paid", "open")[index % 4 == 0],
        f"n{index}",
    ]
    for index in range(120)
]
ROWS[40][2] = "98000.00"
ROWS[61][3] = "chargeback"
ROWS[83][1] = ""


def format_csv(separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerows([HEADER, *ROWS])
    return out.getvalue()


def format_boxed_row(cells: list[str]) -> str:
    return "| " + " | ".join(f"{cell:<10}" for cell in cells) + " |"


RULE = "+" + "+".join("-" * 12 for _ in HEADER) + "+"
FORMATS: dict[str, str] = {
    "csv": format_csv(),
    "semicolons": format_csv(";"),
    "tsv": format_csv("\t"),
    "psql": "\n".join([" | ".join(HEADER), "-+-".join("-----" for _ in HEADER), *map(" | ".join, ROWS), "(120 rows)"]),
    "mysql": "\n".join(
        [RULE, format_boxed_row(HEADER), RULE, *map(format_boxed_row, ROWS), RULE, "120 rows in set (0.01 sec)"]
    ),
    "markdown": "\n".join(
        ["|" + "|".join(HEADER) + "|", "|---" * 5 + "|", *("|" + "|".join(row) + "|" for row in ROWS)]
    ),
    "aligned": "\n".join(
        "   ".join(f"{cell or '<none>':<10}" for cell in row) for row in [[name.upper() for name in HEADER], *ROWS]
    ),
}


def compress_table(text: str, question: str, ratio: float) -> str:
    passage = run_compressor(TableCompressor(), text, question, ratio)
    assert passage is not None
    return render(passage, None)


@pytest.mark.parametrize("table_format", FORMATS)
def test_every_format_is_recognised_and_parsed(table_format: str) -> None:
    assert registry.find_compressor(FORMATS[table_format]).name == "table"
    table = table_parser.parse_table(FORMATS[table_format], DEFAULT_TABLE_WEIGHTS)
    assert table is not None
    assert [name.strip('"').lower() for name in table.names] == HEADER
    assert list(table.columns[0]) == [row[0] for row in ROWS]
    assert list(table.columns[2]) == [row[2] for row in ROWS]


@pytest.mark.parametrize("table_format", FORMATS)
def test_matching_rows_and_outliers_are_kept_under_the_header(table_format: str) -> None:
    out = compress_table(FORMATS[table_format], "What is the amount of order 1077?", 6)
    lines = out.split("\n")
    assert "amount" in lines[0].lower()
    for literal in ("1077", "98000.00", "chargeback", "1083"):  # the match, a far number, a rare value, an empty cell
        assert literal in out or (table_format == "aligned" and literal == "1083")
    assert "1000" in out
    assert ROWS[-1][0] in out
    assert any("rows left out" in line for line in lines)


@pytest.mark.parametrize("table_format", FORMATS)
def test_kept_and_left_out_rows_add_up(table_format: str) -> None:
    passage = run_compressor(TableCompressor(), FORMATS[table_format], "order 1077", 6)
    assert passage is not None
    kept_rows = sum(any(row[0] in line for row in ROWS) for piece in list_pieces(passage) for line in piece.split("\n"))
    footers = sum(name in piece.lower() for name in ("in set", "(120 rows)") for piece in list_pieces(passage))
    assert kept_rows + footers + count_left_out(passage) == passage.total


def test_unremarkable_rows_are_left_out_within_the_budget() -> None:
    head, *rows = FORMATS["csv"].splitlines()
    passage = run_compressor(TableCompressor(), "\n".join([head, *rows * 5]), "", 2, fills_target=False)
    assert passage is not None
    shown = passage.total - count_left_out(passage)
    assert shown < passage.total / 5  # the best of the rest fill a small part of the budget


def test_records_with_line_ends_in_cells_stay_whole() -> None:
    rows = "".join(f'{index},"line one {index}\nline two, {index}",ok\n' for index in range(60))
    text = f"id,remark,state\n{rows}"
    assert registry.find_compressor(text).name == "table"
    assert '31,"line one 31\nline two, 31",ok' in compress_table(text, "remark of 31", 10)


def test_each_of_several_tables_keeps_its_own_header() -> None:
    second_table = FORMATS["psql"].replace("order_id", "ticket").replace("10", "77")
    out = compress_table(FORMATS["psql"] + "\n\n" + second_table, "ticket 7750", 10)
    assert out.index("order_id") < out.index("ticket") < out.index("7750")


@pytest.mark.parametrize("text", [LOG, CODE, SEARCH, LISTING, PROSE, TESTS, "a,b\n1,2\n", "x = f(a, b)\n" * 30])
def test_text_that_is_not_a_table_is_not_recognised(text: str) -> None:
    assert not TableCompressor().recognises(text)


CELLS = st.text(st.sampled_from("ab019 .-\"'|,;\t\\é日"), max_size=8)


@settings(max_examples=80)
@given(
    st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=9, max_size=40),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["", "b", "which one is 019?"]),
)
def test_kept_lines_of_any_table_are_verbatim_and_in_order(
    rows: list[list[str]], separator: str, question: str
) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\n").writerows([["one", "two", "three"], *rows])
    text = out.getvalue()
    passage = run_compressor(TableCompressor(), text, question, 3)
    index = 0
    for piece in list_pieces(passage) if passage is not None else ():
        found = text.find(piece, index)
        assert found >= 0
        index = found + len(piece)
    assert passage is None or all(part.left_out > 0 for part in passage.parts if isinstance(part, Gap))


def test_a_rule_under_a_line_that_is_no_header_makes_no_table() -> None:
    rows = "\n".join(f"{index},Oslo,{index * 7}" for index in range(40))
    ruled = "summary, by hand\n----------------\n"
    assert run_compressor(TableCompressor(), f"id,city,amount\n{rows}\n{ruled}{rows}", "Oslo", 4) is None
    assert run_compressor(TableCompressor(), f"id,city,amount\n{rows}\n{rows}", "Oslo", 4) is not None


PROCESSES = "\n".join(
    [
        "top - 09:00:00 up 1 day, 2 users, load average: 0.10, 0.20, 0.30",
        "",
        "  PID USER PR %CPU %MEM RES COMMAND",
        *(
            f"{900 + index:>5} app{index % 3} 20 {index % 9}.5 0.{index % 4} {10 + index % 5}m worker {index} --quiet"
            for index in range(60)
        ),
        "  990 app2 20 3.5 61.0 2.5g java -jar shop.jar",
        *(
            f"{1000 + index:>5} app{index % 3} 20 {index % 9}.5 0.{index % 4} {10 + index % 5}m worker {index} --quiet"
            for index in range(60)
        ),
    ]
)


@pytest.mark.parametrize("question", ["Which process uses most memory?", "What has the highest RES?"])
def test_columns_apart_by_single_blanks_are_a_table(question: str) -> None:
    passage = run_compressor(registry.find_compressor(PROCESSES), PROCESSES, question, 10)
    assert registry.find_compressor(PROCESSES).name == "table"
    assert passage is not None
    text = render(passage, None)
    assert "COMMAND" in text
    assert "990 app2 20 3.5 61.0 2.5g java -jar shop.jar" in text


def test_rows_with_the_empty_cells_asked_for_are_kept() -> None:
    rows = [f"T-{index},title {index},{'' if index % 5 == 3 else 'ann'},open" for index in range(100)]
    text = "\n".join(["key,title,assignee,state", *rows])
    passage = run_compressor(TableCompressor(), text, "Which tickets are unassigned?", 2)
    assert passage is not None
    kept = render(passage, None)
    assert all(row in kept for row in rows if ",," in row)


def test_lines_indented_with_tabs_are_no_table() -> None:
    text = "On branch main\n" + "\n".join(f"\tmodified:   src/file{index}.py" for index in range(40))
    assert registry.find_compressor(text).name == "lines"


def test_the_rarest_values_come_before_values_that_are_somewhat_rare() -> None:
    rows = [f"{index},{(index * 7 % 11 - 5) / 100:.2f},{1 + index % 9},OK" for index in range(400)]
    rows[150] = "150,0.04,1,LEAKED"
    rows[300] = "300,-0.02,4,BLOCKED"
    rows[7::40] = [row.replace(row.split(",")[1], "0.09") for row in rows[7::40]]
    passage = run_compressor(TableCompressor(), "\n".join(["id,signal,rank,reason", *rows]), "Audit this signal.", 40)
    assert passage is not None
    kept = "\n".join(list_pieces(passage))
    assert "150,0.04,1,LEAKED" in kept
    assert "300,-0.02,4,BLOCKED" in kept


@pytest.mark.parametrize(
    ("question", "rows"),
    [
        ("Which units are masked?", {1, 4, 7}),
        ("Which units are not enabled?", {1, 4, 7}),
        ("Which unit failed?", set[int]()),
        ("Which units are enabled?", set[int]()),  # most are
    ],
)
def test_every_row_with_the_asked_value_is_found(question: str, rows: set[int]) -> None:
    columns = [[f"u{index}" for index in range(9)], ["masked" if index % 3 == 1 else "enabled" for index in range(9)]]
    assert find_rows_with_value(columns, question, DEFAULT_TABLE_WEIGHTS) == rows


def test_the_greatest_expense_is_the_least_number() -> None:
    lines = [f"{index % 28 + 1}.09.2026;Kiosk;Rechnung {index};{-3 - (index * 7) % 90},10" for index in range(150)]
    lines[57], lines[90] = "30.09.2026;Finanzamt;Steuer;-912,00", "30.09.2026;Acme;Lohn;3900,00"
    text = "\n".join(["Tag;Empfaenger;Zweck;Betrag", *lines])
    passage = run_compressor(TableCompressor(), text, "Was war die höchste Ausgabe?", 9, fills_target=False)
    assert passage is not None
    assert "Finanzamt" in render(passage, None)
