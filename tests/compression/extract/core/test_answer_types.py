"""What would answer a question is known by its shape; what the question itself says is no answer."""

import pytest

from clara_proxy.compression.extract.core import answer_types


def _answering(question: str, *units: str) -> list[bool]:
    spans: list[tuple[int, int]] = []
    text = ""
    for unit in units:
        spans.append((len(text), len(text) + len(unit)))
        text += unit + "\n"
    return answer_types.match_answer_type(text, spans, question, [0.0] * len(units))


@pytest.mark.parametrize(
    ("question", "answer", "other"),
    [
        ("who wrote it", "It was written by Ada Lovelace.", "It was written in a hurry."),
        ("When did the bridge open?", "It opened in 1932.", "It opened with a feast."),
        ("when did it open", "It opened on 3 May.", "It opened with a feast."),
        ("How many arches has it?", "It has 12 arches.", "It has many arches."),
        ("How many arches has it?", "It has twelve arches.", "It often has arches."),
        ("Where was he born?", "He was born in Quimby.", "He was born early."),
        ("Сколько там жителей?", "Там 500 жителей.", "Там нет жителей."),
        ("什么时候开放?", "它在1932年开放。", "它开放了。"),
    ],
)
def test_the_kind_of_thing_that_is_asked_for_is_seen(question: str, answer: str, other: str) -> None:
    assert _answering(question, other, answer) == [False, True]


def test_what_the_question_says_is_no_answer() -> None:
    assert _answering("Who met Ada Lovelace in 1843, and when?", "Ada Lovelace, 1843.", "Charles Babbage.") == [
        False,
        True,
    ]


def test_a_question_of_no_kind_and_a_long_text_without_one_say_nothing() -> None:
    assert _answering("Tell me about the bridge", "It opened in 1932.") == [False]
    assert _answering("It broke when I ran it. " * 40, "It opened in 1932.") == [False]


def test_in_a_long_instruction_the_question_mark_shows_what_is_asked() -> None:
    assert _answering("Use only the documents. " * 40 + "When did it open?", "In 1932.", "Soon.") == [True, False]


def test_only_the_likeliest_units_are_looked_at() -> None:
    many = answer_types.MAX_UNITS + 1
    spans = [(at * 5, at * 5 + 4) for at in range(many)]
    found = answer_types.match_answer_type("1932 " * many, spans, "when?", [1.0] * (many - 1) + [0.0])
    assert found == [True] * (many - 1) + [False]
