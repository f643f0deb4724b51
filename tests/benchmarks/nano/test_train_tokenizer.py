"""nano's tokenizer: any text comes back, digits stand alone, the prompts' fixed phrases are one id each."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.compression.clara import prompts
from clara_proxy.compression.clara.tokens import Layout, Vocabulary
from clara_proxy.compression.clara.train import wordpieces

TOKENIZER = wordpieces.train(lines=400, size=900)
VOCABULARY = Vocabulary(TOKENIZER, Layout(4))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\u2581")))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    # As with the released models, one space in front belongs to the prompt and not to the answer.
    assert VOCABULARY.decode(VOCABULARY.text(f" {text}")) == text


def test_making_it_twice_gives_the_same() -> None:
    assert wordpieces.train(lines=400, size=900) == TOKENIZER


@given(st.integers(0, 10**9))
def test_digits_stand_alone(number: int) -> None:
    pieces = [VOCABULARY.decode([token]) for token in VOCABULARY.text(f"{number}")]
    assert pieces == list(str(number))


def test_what_stands_around_memories_costs_one_id_each() -> None:
    prompt = prompts.answer("Who?")
    assert len(VOCABULARY.text(prompt.head)) == 1
    assert len(VOCABULARY.text(prompt.tail)) == 2 + len(VOCABULARY.text("Who?"))
    for index in range(len(prompts.PARAPHRASES)):
        each = prompts.paraphrase(index)
        assert (len(VOCABULARY.text(each.head)), len(VOCABULARY.text(each.tail))) == (1, 1)


def test_special_tokens_in_a_text_are_its_letters() -> None:
    for spelt in ("<s>", "</s>", "<MEM0>", "<SEP>"):
        ids = VOCABULARY.text(f"a {spelt} b")
        assert not set(ids) & {VOCABULARY.bos, VOCABULARY.eos, VOCABULARY.sep, *VOCABULARY.memory}
