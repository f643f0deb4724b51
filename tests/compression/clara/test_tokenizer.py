"""Ids: exact for ordinary text, harmless for any."""

from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="CLaRa needs the extra [clara]")

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.exceptions import CheckpointError, ClaraError
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec

HOSTILE = ["<MEM0>", "<MEM7>", "<SEP>", "<ENC>", "<AE>", "</s>", "<s>", "<unk>"]
texts = st.lists(st.sampled_from([*HOSTILE, "the fox", " ", "\n", "\u2581", "é🙂"]) | st.text(max_size=8)).map("".join)
SHARED = {"max_examples": 200, "deadline": None}


@pytest.fixture(scope="module")
def vocabulary(clara: Clara) -> ClaraTokenizer:
    return clara.tokenizer


@given(text=texts)
def test_no_text_makes_a_special_token(vocabulary: ClaraTokenizer, text: str) -> None:
    special = {*vocabulary.memory_ids, vocabulary.bos_id, vocabulary.eos_id, vocabulary.enc_id, vocabulary.sep_id}
    ids = vocabulary.encode(text)
    assert special.isdisjoint(ids)
    assert all(token < vocabulary.base_vocabulary_size for token in ids)
    row = vocabulary.build_encoder_row(ids, len(ids) + 3)
    assert [token for token in row if token in vocabulary.memory_ids] == list(vocabulary.memory_ids)


@given(text=texts)
def test_ordinary_text_has_the_references_ids(vocabulary: ClaraTokenizer, text: str) -> None:
    if not vocabulary.find_special_tokens(text):
        assert vocabulary.encode(text) == vocabulary.encode(text, parse_special=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_neutral_spelling_keeps_the_characters(vocabulary: ClaraTokenizer, name: str) -> None:
    assert vocabulary.decode(vocabulary.encode(f"a {name} b")) == f"a {name} b"
    assert vocabulary.find_special_tokens(f"a {name} b") == [name]
    assert len(vocabulary.encode(name, parse_special=True)) == 1


def test_order_and_ids(vocabulary: ClaraTokenizer) -> None:
    first = vocabulary.base_vocabulary_size
    assert vocabulary.memory_ids == tuple(range(first, first + 8))
    assert (vocabulary.enc_id, vocabulary.sep_id, vocabulary.vocabulary_size) == (first + 9, first + 10, first + 11)


def test_one_memory_token_repeated(tiny: Path) -> None:
    vocabulary = ClaraTokenizer.from_file(
        tiny / "base" / "tokenizer.json", MemoryTokenSpec(4, is_distinct=False, extra_tokens=("<KBTC>",))
    )
    assert vocabulary.memory_ids == (vocabulary.base_vocabulary_size,) * 4
    assert vocabulary.vocabulary_size == vocabulary.base_vocabulary_size + 5


def test_a_memory_token_in_a_text_is_refused(vocabulary: ClaraTokenizer) -> None:
    with pytest.raises(ClaraError, match="memory token"):
        vocabulary.build_encoder_row(vocabulary.encode("see <MEM1>", parse_special=True), 35)


def test_the_first_revision_is_read_as_the_current_one(golden: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = MemoryTokenSpec(16)
    now = ClaraTokenizer.from_file(golden / "base" / "tiny-mistral" / "tokenizer.json", layout)
    old = ClaraTokenizer.from_file(golden / "base" / "tiny-mistral-oldrev-tokenizer" / "tokenizer.json", layout)
    assert "first revision" in caplog.text
    for text in ("", " ", "The treaty of Ransholm", " leading", "a\n\nb é🙂 \u2581x"):
        assert old.encode(text) == now.encode(text)
        assert old.encode(text, parse_special=True) == now.encode(text, parse_special=True)
        assert old.decode(old.encode(text)) == now.decode(now.encode(text))


def test_the_revision_tells_tokenizers_apart(tiny: Path) -> None:
    path = tiny / "base" / "tokenizer.json"
    one, same, other = (ClaraTokenizer.from_file(path, MemoryTokenSpec(count)) for count in (8, 8, 4))
    assert one.revision == same.revision != other.revision


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not a tokenizer"), ("{}", "not a tokenizer"), (None, "cannot be read")]
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=f"tokenizer.json: {words}"):
        ClaraTokenizer.from_file(path, MemoryTokenSpec(8))
