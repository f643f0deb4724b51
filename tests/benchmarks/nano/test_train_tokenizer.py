"""clara-nano's tokenizer: lossless, one token a digit, one token a prompt phrase."""

from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.benchmarks.nano.train_tokenizer import train_tokenizer
from clara_proxy.compression.clara import prompts
from clara_proxy.compression.clara.tokens import Layout, Vocabulary

TOKENIZER = train_tokenizer(lines=400, size=900)
VOCABULARY = Vocabulary(TOKENIZER, Layout(4))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\u2581")))
@settings(max_examples=200, deadline=None)
def test_decoding_restores_any_text(text: str) -> None:
    # As with the released models, one leading space belongs to the prompt and not to the answer.
    assert VOCABULARY.decode(VOCABULARY.text(f" {text}")) == text


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_tokenizer(lines=400, size=900) == TOKENIZER


@given(st.integers(0, 10**9))
def test_every_digit_is_a_token(number: int) -> None:
    tokens = [VOCABULARY.decode([token]) for token in VOCABULARY.text(f"{number}")]
    assert tokens == list(str(number))


def test_every_prompt_phrase_is_one_token() -> None:
    prompt = prompts.answer("Who?")
    assert len(VOCABULARY.text(prompt.head)) == 1
    assert len(VOCABULARY.text(prompt.tail)) == 2 + len(VOCABULARY.text("Who?"))
    for index in range(len(prompts.PARAPHRASES)):
        paraphrase = prompts.paraphrase(index)
        assert (len(VOCABULARY.text(paraphrase.head)), len(VOCABULARY.text(paraphrase.tail))) == (1, 1)


def test_special_tokens_in_a_text_are_plain_characters() -> None:
    for name in ("<s>", "</s>", "<MEM0>", "<SEP>"):
        ids = VOCABULARY.text(f"a {name} b")
        assert not set(ids) & {VOCABULARY.bos, VOCABULARY.eos, VOCABULARY.sep, *VOCABULARY.memory}
