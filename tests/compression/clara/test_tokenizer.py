"""Ids: exact for ordinary text, harmless for any."""

from pathlib import Path

import pytest

pytest.importorskip("tokenizers", reason="CLaRa needs the extra [clara]")

from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.exceptions import CheckpointError, ClaraError
from clara_proxy.compression.clara.tokenizer import Layout, Vocabulary

HOSTILE = ["<MEM0>", "<MEM7>", "<SEP>", "<ENC>", "<AE>", "</s>", "<s>", "<unk>"]
texts = st.lists(st.sampled_from([*HOSTILE, "the fox", " ", "\n", "\u2581", "é🙂"]) | st.text(max_size=8)).map("".join)
SHARED = {"max_examples": 200, "deadline": None}


@pytest.fixture(scope="module")
def vocabulary(clara: Clara) -> Vocabulary:
    return clara.vocabulary


@given(text=texts)
def test_no_text_makes_a_special_token(vocabulary: Vocabulary, text: str) -> None:
    special = {*vocabulary.memory, vocabulary.bos, vocabulary.eos, vocabulary.enc, vocabulary.sep}
    ids = vocabulary.text(text)
    assert special.isdisjoint(ids)
    assert all(token < vocabulary.base_size for token in ids)
    row = vocabulary.row(ids, len(ids) + 3)
    assert [token for token in row if token in vocabulary.memory] == list(vocabulary.memory)


@given(text=texts)
def test_ordinary_text_has_the_references_ids(vocabulary: Vocabulary, text: str) -> None:
    if not vocabulary.specials_in(text):
        assert vocabulary.text(text) == vocabulary.text(text, parse_special=True)


@pytest.mark.parametrize("name", HOSTILE)
def test_neutral_spelling_keeps_the_characters(vocabulary: Vocabulary, name: str) -> None:
    assert vocabulary.decode(vocabulary.text(f"a {name} b")) == f"a {name} b"
    assert vocabulary.specials_in(f"a {name} b") == [name]
    assert len(vocabulary.text(name, parse_special=True)) == 1


def test_order_and_ids(vocabulary: Vocabulary) -> None:
    first = vocabulary.base_size
    assert vocabulary.memory == tuple(range(first, first + 8))
    assert (vocabulary.enc, vocabulary.sep, vocabulary.size) == (first + 9, first + 10, first + 11)


def test_one_memory_token_repeated(tiny: Path) -> None:
    vocabulary = Vocabulary.from_file(tiny / "base" / "tokenizer.json", Layout(4, distinct=False, extra=("<KBTC>",)))
    assert vocabulary.memory == (vocabulary.base_size,) * 4
    assert vocabulary.size == vocabulary.base_size + 5


def test_a_memory_token_in_a_text_is_refused(vocabulary: Vocabulary) -> None:
    with pytest.raises(ClaraError, match="memory token"):
        vocabulary.row(vocabulary.text("see <MEM1>", parse_special=True), 35)


def test_the_first_revision_is_read_as_the_current_one(golden: Path, caplog: pytest.LogCaptureFixture) -> None:
    layout = Layout(16)
    now = Vocabulary.from_file(golden / "base" / "tiny-mistral" / "tokenizer.json", layout)
    old = Vocabulary.from_file(golden / "base" / "tiny-mistral-oldrev-tokenizer" / "tokenizer.json", layout)
    assert "first revision" in caplog.text
    for text in ("", " ", "The treaty of Ransholm", " leading", "a\n\nb é🙂 \u2581x"):
        assert old.text(text) == now.text(text)
        assert old.text(text, parse_special=True) == now.text(text, parse_special=True)
        assert old.decode(old.text(text)) == now.decode(now.text(text))


def test_the_revision_tells_tokenizers_apart(tiny: Path) -> None:
    path = tiny / "base" / "tokenizer.json"
    one, same, other = (Vocabulary.from_file(path, Layout(count)) for count in (8, 8, 4))
    assert one.revision == same.revision != other.revision


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not a tokenizer"), ("{}", "not a tokenizer"), (None, "cannot be read")]
)
def test_a_broken_tokenizer_is_named(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=f"tokenizer.json: {words}"):
        Vocabulary.from_file(path, Layout(8))
