"""Questions made mechanically: asked near their answer, never with it, in any script."""

from random import Random

import pytest

from clara_proxy.benchmarks import scripts

TEXTS = {
    "words": " ".join(f"Rivers{at} joined valleys{at} under mountains{at} number{at}." for at in range(9)),
    "letters": "".join(chr(0x4E00 + at) for at in range(200)),
    "marks": " ".join(f"{chr(0x915 + at)}िताबों{chr(0x915 + at)}" for at in range(30)),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_questions_have_an_answer_that_stands_once_and_none_of_it(kind: str) -> None:
    text = f"Short.\n\n{TEXTS[kind]}"
    made = list(scripts.make_questions([text] * 30, 5, Random("x")))
    assert made
    assert len(made) <= 5
    for whole, question, answer in made:
        assert whole == text
        assert text.count(answer) == 1
        assert len(question.split()) == scripts.PIECES_PER_QUESTION
        assert question == question.lower()
        assert not set(question.split()) & set(answer.lower().split())


def test_the_same_seed_asks_the_same() -> None:
    text = TEXTS["words"]
    first, second = (list(scripts.make_questions([text] * 9, 4, Random("y"))) for _ in range(2))
    assert first == second
