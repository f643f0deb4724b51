"""Lines found by their values: an extreme of a field, values other than a negated one, identifiers and names."""

import pytest

from clara_proxy.compression.extract.core import bm25, line_values, lines, records

SIZES = [f"Name: a{index}\nInstalled Size  : {index + 12}.10 KiB" for index in range(9)]
SIZES[4] = "Name: a4\nInstalled Size  : 1.05 MiB"
UPTIMES = [f'<device id="d{index}"><uptime days="{(index * 53) % 97}"/></device>' for index in range(9)]
PRICES = [f"<PRICE>{9 - index}.90</PRICE>" for index in range(9)]
PAGES = [f"7f53b{index} default file=/usr/lib/x.so anon={(index * 5) % 9} active=9{index}" for index in range(9)]
COMMITS = [f" {index + 1} files changed, {(index * 31) % 70} insertions(+)" for index in range(9)]
DATES = [f"Date:   Mon Nov {30 - (index * 4) % 9} 07:57:47 2026 +0000" for index in range(9)]
BALANCES = [f"balance | {(index * 5) % 9}1.50" for index in range(9)]
FILES = [f"Processed a{index}.dat ({10 + (index * 5) % 9} KB) in folder f" for index in range(9)]
POWERS = [f'<power unit="W">{10 + (index * 3 + 1) % 10}</power>' for index in range(9)]
BOOKS = [f"Published: {1990 + (index * 5) % 9}-03-11" for index in range(9)]
RAM = [f"RAM: {10 + (index * 2 + 1) % 9} GB" for index in range(9)]


def rank(records_: list[str], question: str) -> str:
    text = "\n".join(records_)
    spans = lines.find_line_spans(text)
    asked = line_values.find_asked_values(text, spans, question, bm25.parse_query(question))
    return text[slice(*spans[max(asked, key=lambda index: asked[index])])]


@pytest.mark.parametrize(
    ("record_lines", "question", "best"),
    [
        (SIZES, "Which package is largest when installed?", "Installed Size  : 1.05 MiB"),
        (UPTIMES, "Which device has been up longest?", UPTIMES[7]),
        (PRICES, "Which one has the lowest price?", PRICES[8]),
        (PAGES, "Which mapping has the most anonymous pages?", PAGES[7]),
        (COMMITS, "Which commit inserts the most lines?", COMMITS[2]),
        (DATES, "Which is the oldest commit?", DATES[2]),
        (DATES, "What was changed last?", DATES[0]),
        (BALANCES, "Which customer has the largest balance?", BALANCES[7]),
        (FILES, "Which file is smallest?", FILES[0]),
        (POWERS, "Which device draws the least power?", POWERS[3]),
        (BOOKS, "Which book was published first?", BOOKS[0]),
        (RAM, "Which host has the least memory?", RAM[4]),
    ],
)
def test_the_extreme_of_a_field_comes_first(record_lines: list[str], question: str, best: str) -> None:
    assert rank(record_lines, question) == best


def test_values_other_than_a_negated_one_are_found() -> None:
    text = "\n".join(f'size = "{"large" if index % 3 == 0 else "small"}"' for index in range(30))
    spans = lines.find_line_spans(text)
    assert line_values.find_odd_values(text, spans, {"small"})[2] == list(range(0, 30, 3))
    assert line_values.find_odd_values(text, spans, set())[2] == []


def test_lines_with_an_identifier_of_the_question_are_named() -> None:
    text = "\n".join(
        f"event {index} from 10.0.0.{index} and 10.0.0.{index}1 in inc-00{index}" for index in range(10, 40)
    )
    spans = lines.find_line_spans(text)
    for question in ("Which event came from 10.0.0.17?", "What is inc-0017 about?"):
        assert line_values.find_named_lines(text, spans, bm25.parse_query(question)) == [7]


@pytest.mark.parametrize(
    ("question", "line"),
    [
        ("How many CPUs are there?", "CPU(s):   2"),
        ("Which Go version is it?", 'GOVERSION="go1.19.8"'),
        ("Which version is it?", "Bundle-Version: 2.17.1"),
    ],
)
def test_the_name_of_a_setting_ends_with_a_word_of_the_question(question: str, line: str) -> None:
    text = "\n".join([*(f"Entry {index}: a{index}" for index in range(20)), line])
    spans = lines.find_line_spans(text)
    assert line_values.find_named_lines(text, spans, bm25.parse_query(question)) == [20]


def test_a_record_is_identified_by_a_field_below_its_first_line() -> None:
    text = "\n\n".join(f"Repository: core\nName: pkg{index}\nVersion: 1.{index}\nLicense: MIT" for index in range(6))
    spans = lines.find_line_spans(text)
    structure = records.find_structure(text, spans)
    assert list(records.list_named_members(structure, text, spans, {9})) == [9, 10, 11]


def test_a_chain_of_rules_is_no_row_of_the_columns_above() -> None:
    text = "\n\n".join(
        f"Chain zone{index} (1 references)\nnum  target  prot opt source    destination\n"
        "1    LOG     all  --  anywhere  anywhere  \n2    RETURN  all  --  anywhere  anywhere  "
        for index in range(6)
    )
    spans = lines.find_line_spans(text)
    parents = records.find_structure(text, spans).parents
    assert [parents[index] for index in range(0, 24, 4)] == [-1] * 6
