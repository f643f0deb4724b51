import socket
import time

import pytest
import tiktoken

from clara_proxy.compression import tokens
from clara_proxy.compression.tokens import TokenCounter, get_token_counter


@pytest.mark.parametrize(
    ("model", "name", "exact"),
    [
        ("gpt-4o", "o200k_base", True),
        ("gpt-4o-2024-08-06", "o200k_base", True),
        ("openai/gpt-4o-mini", "o200k_base", True),
        ("o3-mini", "o200k_base", True),
        ("gpt-4", "cl100k_base", True),
        ("azure/gpt-3.5-turbo", "cl100k_base", True),
        ("ft:gpt-4o:mine", "o200k_base", True),
        ("text-davinci-003", "o200k_base", False),  # not bundled, and never downloaded
        ("gpt2", "o200k_base", False),
        ("claude-sonnet-4", "o200k_base", False),
        ("mistral/large", "o200k_base", False),
        ("None", "o200k_base", False),
        ("", "o200k_base", False),
        ("\ud800/漢字", "o200k_base", False),
    ],
)
def test_model_has_its_vocabulary_or_a_labelled_estimate(model: str, name: str, exact: bool) -> None:
    counter = get_token_counter(model)
    assert (counter.name, counter.is_exact) == (name, exact)


def test_models_of_one_vocabulary_share_a_counter() -> None:
    assert get_token_counter("gpt-4o") is get_token_counter("openai/gpt-4o-mini")
    assert get_token_counter("mistral") is get_token_counter("claude")
    assert get_token_counter("mistral") is not get_token_counter("gpt-4o")


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("hello world", 2), ("tiktoken is great!", 6), ("antidisestablishmentarianism", 6)]
)
def test_cl100k_counts(text: str, count: int) -> None:
    assert get_token_counter("gpt-4").count(text) == count


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|im_start|>", "</s>", "<MEM0>", "<SEP>"])
def test_special_tokens_count_as_plain_text(special: str) -> None:
    for model in ("gpt-4o", "gpt-4"):
        assert get_token_counter(model).count(special) > 1
        assert get_token_counter(model).count(f"a {special} b") > 3


def test_lone_surrogate_is_counted() -> None:
    assert get_token_counter("gpt-4o").count("a\ud800b") > 0


def test_no_network_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for model in ("gpt-4o", "gpt-4", "gpt2", "text-davinci-003", "unheard-of", "gpt-oss-20b"):
        assert get_token_counter(model).count(f"fresh text for {model}") > 2


def test_counts_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = TokenCounter("o200k_base", is_exact=True)
    assert not counter.is_loaded
    assert counter.split_known(["a b c", "d"]) == ([], ["a b c", "d"])
    assert counter.count("a b c") == 3
    assert counter.is_loaded
    monkeypatch.setattr(tiktoken.Encoding, "encode_ordinary", None)
    assert counter.count("a b c") == 3
    assert counter.split_known(["a b c", "d", "a b c"]) == ([3, 3], ["d"])


def test_remembered_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MEMO_SIZE", 10)
    counter = TokenCounter("o200k_base", is_exact=True)
    texts = [f"text {number}" for number in range(25)]
    assert [counter.count(text) for text in texts] == [counter.count("text 1")] * 25
    assert len(counter.split_known(texts)[0]) <= 10


def test_long_text_is_counted_in_pieces() -> None:
    text = "The harbour master counted three ships.\n" * 10_000
    count = get_token_counter("gpt-4o").count(text)
    assert count == pytest.approx(len(tiktoken.get_encoding("o200k_base").encode_ordinary(text)), rel=1e-4)


@pytest.mark.parametrize("character", ["a", " ", "\n", "=", "漢"])
def test_long_run_of_one_character_is_counted_quickly(character: str) -> None:
    started = time.thread_time()
    assert 0 < get_token_counter("gpt-4o").count(character * 5_000_000) <= 5_000_000 * 3
    assert time.thread_time() - started < 15
