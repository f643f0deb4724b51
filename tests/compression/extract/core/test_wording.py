"""The few units that are worded unlike most of a formulaic text."""

from clara_proxy.compression.extract.core import bm25, line_values, lines, wording
from clara_proxy.compression.extract.core.sentences import find_sentences

ROUTINE = [f"job {name} looks fine to me, going on with the next one" for name in "abcdefghijklmnopqrst"]


def test_a_remark_among_routine_messages_is_odd() -> None:
    remark = "ops moved the queue to another machine again"
    assert wording.find_odd_wordings([*ROUTINE[:9], remark, *ROUTINE[9:]]) == [9]


def test_a_remark_in_a_long_text_of_records_is_odd() -> None:
    record = [*ROUTINE[:5], "x9 = 77", "y = 4", "z"]
    units = [*record * 150, "ops moved the queue to another machine again", *record * 150]
    assert wording.find_odd_wordings(units) == [1_200]


def test_nothing_is_odd_among_few_units() -> None:
    assert wording.find_odd_wordings([]) == wording.find_odd_wordings(["a remark"]) == []


def test_nothing_is_odd_in_running_text() -> None:
    words = ["oak", "elm", "ash", "fir", "yew", "box", "bay", "fig", "nut", "pea", "rye", "hop"]
    units = [" ".join(words[index:] + words[:index])[::-1] + f" tale{words[index]}" for index in range(12)]
    units = [" ".join(f"{word}{chr(97 + index)}" for word in unit.split()) for index, unit in enumerate(units)]
    assert wording.find_odd_wordings(units) == []


def test_a_wrapped_sentence_is_one_unit() -> None:
    first = "  The exit status is zero if all of the inputs are equal, and it"
    text = f"{first}\n  is one if they differ.\n  Short list\n  of two"
    spans = lines.find_line_spans(text)
    assert lines.join_wrapped(text, spans, range(len(spans)), 200) == [0, 2, 3]


def test_a_diffstat_shows_files_with_only_removed_lines() -> None:
    rows = [f" src/m{index}.py | {index + 2} +-" for index in range(30)]
    text = "\n".join([*rows[:7], " src/gone.py | 7 -", *rows[7:]])
    spans = lines.find_line_spans(text)
    question = "Which files have only deleted lines?"
    query = bm25.parse_query(question)
    assert list(line_values.find_asked_values(text, spans, question, query)) == [7]


def test_the_number_of_a_title_does_not_end_a_sentence() -> None:
    text = "## 7. Returns\n\nWithin 30 days. Not for bulky goods."
    assert next(text[start:end] for start, end in find_sentences(text)) == "## 7. Returns"
