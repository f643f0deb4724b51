"""Expected answer types of questions; words of the question are no answer."""

import pytest

from clara_proxy.compression.extract.core import answer_types


def _match(question: str, *units: str) -> list[bool]:
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
        ("What is the gateway?", "It is 10.0.0.1.", "It is eth0."),
        ("Which step was slow?", "Linking took 812 ms.", "Linking took long."),
        ("Сколько там жителей?", "Там 500 жителей.", "Там нет жителей."),
        ("什么时候开放?", "它在1932年开放。", "它开放了。"),
    ],
)
def test_a_unit_with_the_expected_answer_type_is_found(question: str, answer: str, other: str) -> None:
    assert _match(question, other, answer) == [False, True]


def test_words_of_the_question_are_no_answer() -> None:
    assert _match("Who met Ada Lovelace in 1843, and when?", "Ada Lovelace, 1843.", "Charles Babbage.") == [
        False,
        True,
    ]


def test_a_text_without_a_typed_question_matches_nothing() -> None:
    assert _match("Tell me about the bridge", "It opened in 1932.") == [False]
    assert _match("It broke when I ran it. " * 40, "It opened in 1932.") == [False]


def test_the_last_question_mark_decides_in_a_long_instruction() -> None:
    assert _match("Use only the documents. " * 40 + "When did it open?", "In 1932.", "Soon.") == [True, False]


def test_only_the_units_with_the_best_scores_are_examined() -> None:
    total = answer_types.MAX_UNITS + 1
    spans = [(index * 5, index * 5 + 4) for index in range(total)]
    matches = answer_types.match_answer_type("1932 " * total, spans, "when?", [1.0] * (total - 1) + [0.0])
    assert matches == [True] * (total - 1) + [False]
