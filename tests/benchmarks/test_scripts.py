"""Generated questions: near the answer, without its words, in any script."""

from random import Random

import pytest

from clara_proxy.benchmarks import scripts

TEXTS = {
    "words": " ".join(
        f"Rivers{index} joined valleys{index} under mountains{index} number{index}." for index in range(9)
    ),
    "letters": "".join(chr(0x4E00 + index) for index in range(200)),
    "marks": " ".join(f"{chr(0x915 + index)}िताबों{chr(0x915 + index)}" for index in range(30)),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_an_answer_occurs_once_and_shares_no_word_with_its_question(kind: str) -> None:
    text = f"Short.\n\n{TEXTS[kind]}"
    questions = list(scripts.make_questions([text] * 30, 5, Random("x")))
    assert questions
    assert len(questions) <= 5
    for whole, question, answer in questions:
        assert whole == text
        assert text.count(answer) == 1
        assert len(question.split()) == scripts.PIECES_PER_QUESTION
        assert question == question.lower()
        assert not set(question.split()) & set(answer.lower().split())


def test_a_seed_always_generates_the_same_questions() -> None:
    text = TEXTS["words"]
    first, second = (list(scripts.make_questions([text] * 9, 4, Random("y"))) for _ in range(2))
    assert first == second
