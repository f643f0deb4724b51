"""clara-nano's tokenizer: lossless, one token a digit, one token a prompt phrase."""

from hypothesis import given, settings
from hypothesis import strategies as st

from clara_proxy.benchmarks.nano.train_tokenizer import train_tokenizer
from clara_proxy.compression.clara import prompts
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec

TOKENIZER_JSON = train_tokenizer(lines=400, size=900)
TOKENIZER = ClaraTokenizer(TOKENIZER_JSON, MemoryTokenSpec(4))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\u2581")))
@settings(max_examples=200)
def test_decoding_restores_any_text(text: str) -> None:
    # As with the released models, one leading space belongs to the prompt and not to the answer.
    assert TOKENIZER.decode(TOKENIZER.encode(f" {text}")) == text


def test_training_twice_gives_the_same_tokenizer() -> None:
    assert train_tokenizer(lines=400, size=900) == TOKENIZER_JSON


@given(st.integers(0, 10**9))
def test_every_digit_is_a_token(number: int) -> None:
    tokens = [TOKENIZER.decode([token]) for token in TOKENIZER.encode(f"{number}")]
    assert tokens == list(str(number))


def test_every_prompt_phrase_is_one_token() -> None:
    prompt = prompts.answer_prompt("Who?")
    assert len(TOKENIZER.encode(prompt.head)) == 1
    assert len(TOKENIZER.encode(prompt.tail)) == 2 + len(TOKENIZER.encode("Who?"))
    for index in range(len(prompts.PARAPHRASE_TEMPLATES)):
        paraphrase = prompts.paraphrase_prompt(index)
        assert (len(TOKENIZER.encode(paraphrase.head)), len(TOKENIZER.encode(paraphrase.tail))) == (1, 1)


def test_special_tokens_in_a_text_are_plain_characters() -> None:
    for name in ("<s>", "</s>", "<MEM0>", "<SEP>"):
        ids = TOKENIZER.encode(f"a {name} b")
        assert not set(ids) & {TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.sep_id, *TOKENIZER.memory_ids}
