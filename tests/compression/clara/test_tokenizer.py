"""Ids are exact for ordinary text, and harmless for any text."""

from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="CLaRa needs the extra [clara]")

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec
from clara_proxy.compression.models.errors import CheckpointError, ModelError
from clara_proxy.tests.compression.clara.conftest import find_special_tokens

HOSTILE = ["<MEM0>", "<MEM7>", "<SEP>", "<ENC>", "<AE>", "</s>", "<s>", "<unk>"]
texts = st.lists(st.sampled_from([*HOSTILE, "the fox", " ", "\n", "\u2581", "é🙂"]) | st.text(max_size=8)).map("".join)
SHARED = {"max_examples": 200, "deadline": None}


@pytest.fixture(scope="module")
def tokenizer(clara: Clara) -> ClaraTokenizer:
    return clara.tokenizer


@given(text=texts)
def test_no_text_becomes_a_special_token(tokenizer: ClaraTokenizer, text: str) -> None:
    special = {*tokenizer.memory_ids, tokenizer.bos_id, tokenizer.eos_id, tokenizer.enc_id, tokenizer.sep_id}
    ids = tokenizer.encode(text)
    assert special.isdisjoint(ids)
    assert all(token < tokenizer.base_vocabulary_size for token in ids)
    row = tokenizer.build_encoder_row(ids, len(ids) + 3)
    assert [token for token in row if token in tokenizer.memory_ids] == list(tokenizer.memory_ids)


@given(text=texts)
def test_ordinary_text_has_the_references_ids(tokenizer: ClaraTokenizer, text: str) -> None:
    if not find_special_tokens(text):
        assert tokenizer.encode(text) == tokenizer.encode(text, parse_special=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_spelt_special_tokens_keep_their_characters(tokenizer: ClaraTokenizer, name: str) -> None:
    assert tokenizer.decode(tokenizer.encode(f"a {name} b")) == f"a {name} b"
    assert find_special_tokens(f"a {name} b") == [name]
    assert len(tokenizer.encode(name, parse_special=True)) == 1


def test_clara_tokens_follow_the_base_vocabulary(tokenizer: ClaraTokenizer) -> None:
    first = tokenizer.base_vocabulary_size
    assert tokenizer.memory_ids == tuple(range(first, first + 8))
    assert (tokenizer.enc_id, tokenizer.sep_id, tokenizer.vocabulary_size) == (first + 9, first + 10, first + 11)


def test_indistinct_memory_tokens_share_one_id(tiny: Path) -> None:
    tokenizer = ClaraTokenizer.from_file(
        tiny / "base" / "tokenizer.json", MemoryTokenSpec(4, is_distinct=False, extra_tokens=("<KBTC>",))
    )
    assert tokenizer.memory_ids == (tokenizer.base_vocabulary_size,) * 4
    assert tokenizer.vocabulary_size == tokenizer.base_vocabulary_size + 5


def test_memory_token_in_a_text_is_refused(tokenizer: ClaraTokenizer) -> None:
    with pytest.raises(ModelError, match="memory token"):
        tokenizer.build_encoder_row(tokenizer.encode("see <MEM1>", parse_special=True), 35)


def test_first_tokenizer_revision_gives_the_current_ids(golden: Path, caplog: pytest.LogCaptureFixture) -> None:
    memory_spec = MemoryTokenSpec(16)
    now = ClaraTokenizer.from_file(golden / "base" / "tiny-mistral" / "tokenizer.json", memory_spec)
    old = ClaraTokenizer.from_file(golden / "base" / "tiny-mistral-oldrev-tokenizer" / "tokenizer.json", memory_spec)
    assert "first revision" in caplog.text
    for text in ("", " ", "The treaty of Ransholm", " leading", "a\n\nb é🙂 \u2581x"):
        assert old.encode(text) == now.encode(text)
        assert old.encode(text, parse_special=True) == now.encode(text, parse_special=True)
        assert old.decode(old.encode(text)) == now.decode(now.encode(text))


def test_revision_differs_between_tokenizers(tiny: Path) -> None:
    path = tiny / "base" / "tokenizer.json"
    first, same, other = (ClaraTokenizer.from_file(path, MemoryTokenSpec(count)) for count in (8, 8, 4))
    assert first.revision == same.revision != other.revision


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not a tokenizer"), ("{}", "not a tokenizer"), (None, "cannot be read")]
)
def test_broken_tokenizer_file_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=f"tokenizer.json: {words}"):
        ClaraTokenizer.from_file(path, MemoryTokenSpec(8))
