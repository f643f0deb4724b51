"""Tables: what is one, and that rows stay because they are asked for, stand out, or show what the table is like."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression import registry
from clara_proxy.compression.compressor import Gap
from clara_proxy.compression.extract import table_parser
from clara_proxy.compression.extract.tables import TableCompressor
from clara_proxy.compression.markers import render

from .samples import CODE, LISTING, LOG, PROSE, SEARCH, TESTS, condense, left_out, pieces

HEADER = ["order_id", "city", "amount", "status", "note"]
ROWS = [
    [str(1000 + at), ("Oslo", "Lima", "Kyiv")[at % 3], f"{50 + at % 7}.25", ("paid", "open")[at % 4 == 0], f"n{at}"]
    for at in range(120)
]
ROWS[40][2] = "98000.00"
ROWS[61][3] = "chargeback"
ROWS[83][1] = ""


def csv_text(separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, lineterminator="\n")
    writer.writerows([HEADER, *ROWS])
    return out.getvalue()


def boxed(cells: list[str]) -> str:
    return "| " + " | ".join(f"{cell:<10}" for cell in cells) + " |"


RULE = "+" + "+".join("-" * 12 for _ in HEADER) + "+"
FORMS: dict[str, str] = {
    "csv": csv_text(),
    "semicolons": csv_text(";"),
    "tsv": csv_text("\t"),
    "psql": "\n".join([" | ".join(HEADER), "-+-".join("-----" for _ in HEADER), *map(" | ".join, ROWS), "(120 rows)"]),
    "mysql": "\n".join([RULE, boxed(HEADER), RULE, *map(boxed, ROWS), RULE, "120 rows in set (0.01 sec)"]),
    "markdown": "\n".join(
        ["|" + "|".join(HEADER) + "|", "|---" * 5 + "|", *("|" + "|".join(row) + "|" for row in ROWS)]
    ),
    "aligned": "\n".join(
        "   ".join(f"{cell or '<none>':<10}" for cell in row) for row in [[name.upper() for name in HEADER], *ROWS]
    ),
}


def shortened(text: str, question: str, ratio: float) -> str:
    condensed = condense(TableCompressor(), text, question, ratio)
    assert condensed is not None
    return render(condensed, None)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_recognised_and_read(form: str) -> None:
    assert registry.find_compressor(FORMS[form]).name == "table"
    found = table_parser.parse_table(FORMS[form])
    assert found is not None
    assert [name.strip('"').lower() for name in found.names] == HEADER
    assert list(found.columns[0]) == [row[0] for row in ROWS]
    assert list(found.columns[2]) == [row[2] for row in ROWS]


@pytest.mark.parametrize("form", FORMS)
def test_the_row_asked_for_stays_under_its_header_with_the_odd_ones(form: str) -> None:
    out = shortened(FORMS[form], "What is the amount of order 1077?", 6)
    lines = out.split("\n")
    assert "amount" in lines[0].lower()
    for literal in ("1077", "98000.00", "chargeback", "1083"):  # asked for, far off, rare, with an empty cell
        assert literal in out or (form == "aligned" and literal == "1083")
    assert "1000" in out
    assert ROWS[-1][0] in out
    assert any("rows left out" in line for line in lines)


@pytest.mark.parametrize("form", FORMS)
def test_what_stays_and_what_is_left_out_adds_up(form: str) -> None:
    condensed = condense(TableCompressor(), FORMS[form], "order 1077", 6)
    assert condensed is not None
    kept = sum(any(row[0] in line for row in ROWS) for piece in pieces(condensed) for line in piece.split("\n"))
    named = sum(name in piece.lower() for name in ("order_id", "in set", "(120 rows)") for piece in pieces(condensed))
    assert kept + named + left_out(condensed) == condensed.total


def test_a_row_that_nothing_speaks_for_is_left_out_though_there_is_room() -> None:
    condensed = condense(TableCompressor(), FORMS["csv"], "", 2)
    assert condensed is not None
    assert left_out(condensed) > 100


def test_records_with_line_ends_in_their_cells_stay_whole() -> None:
    rows = "".join(f'{at},"line one {at}\nline two, {at}",ok\n' for at in range(60))
    text = f"id,remark,state\n{rows}"
    assert registry.find_compressor(text).name == "table"
    assert '31,"line one 31\nline two, 31",ok' in shortened(text, "remark of 31", 10)


def test_several_results_keep_their_own_headers() -> None:
    other = FORMS["psql"].replace("order_id", "ticket").replace("10", "77")
    out = shortened(FORMS["psql"] + "\n\n" + other, "ticket 7750", 10)
    assert out.index("order_id") < out.index("ticket") < out.index("7750")


@pytest.mark.parametrize("text", [LOG, CODE, SEARCH, LISTING, PROSE, TESTS, "a,b\n1,2\n", "x = f(a, b)\n" * 30])
def test_what_is_no_table_is_not_taken_for_one(text: str) -> None:
    assert not TableCompressor().recognises(text)


CELLS = st.text(st.sampled_from("ab019 .-\"'|,;\t\\é日"), max_size=8)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(CELLS, min_size=3, max_size=3), min_size=9, max_size=40),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["", "b", "which one is 019?"]),
)
def test_any_table_keeps_verbatim_lines_in_order(rows: list[list[str]], separator: str, question: str) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=separator, lineterminator="\n").writerows([["one", "two", "three"], *rows])
    text = out.getvalue()
    condensed = condense(TableCompressor(), text, question, 3)
    at = 0
    for piece in pieces(condensed) if condensed is not None else ():
        found = text.find(piece, at)
        assert found >= 0
        at = found + len(piece)
    assert condensed is None or all(part.left_out > 0 for part in condensed.parts if isinstance(part, Gap))


def test_a_rule_under_a_line_that_is_no_header_makes_no_table() -> None:
    rows = "\n".join(f"{at},Oslo,{at * 7}" for at in range(40))
    ruled = "summary, by hand\n----------------\n"
    assert condense(TableCompressor(), f"id,city,amount\n{rows}\n{ruled}{rows}", "Oslo", 4) is None
    assert condense(TableCompressor(), f"id,city,amount\n{rows}\n{rows}", "Oslo", 4) is not None
