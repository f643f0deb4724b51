"""Static sentence embeddings: the normalized sum of one vector per token, looked up in a table.

The table is distilled from all-MiniLM-L6-v2 by `benchmarks/embedding_table.py`; `embedding_table/NOTICE.md` states its
source and licence. Rows are int8 with one scale each, in the order of the vocabulary, and mapped from the file, so that
processes share them. numpy is imported on first use.
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category, normalize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

FOLDER = Path(__file__).with_name("embedding_table")
MAX_WORD_CHARACTERS = 60  # the rest of a longer word, usually a blob, is ignored
MAX_BATCH_WORDS = 16_384  # gathered at once; bounds the memory of a call
CACHED_WORDS = 100_000
EPSILON = 1e-9

_WORD = re.compile(r"[^\W_]+")
_WORD_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")
_IDEOGRAPH = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002fa1f]")


class Table(NamedTuple):
    """A vocabulary with one vector per token: `rows` (tokens, dimensions) as int8, `scales` (tokens, 1)."""

    indices: dict[str, int]
    rows: "NDArray[np.int8]"
    scales: "Floats"


@cache
def load_table() -> Table:
    """Map the table from its file; raises OSError if the installation lacks it."""
    import numpy as np  # noqa: PLC0415  slow to import, and not needed by every process

    rows: NDArray[np.int8] = np.asarray(np.load(FOLDER / "rows.npy", mmap_mode="r"))
    scales: Floats = np.load(FOLDER / "scales.npy").astype(np.float32).reshape(-1, 1)
    return Table(load_vocabulary(), rows, scales)


@cache
def load_vocabulary() -> dict[str, int]:
    """Return the index of each token; a token that continues a word begins with `##`."""
    tokens = (FOLDER / "vocabulary.txt").read_text(encoding="utf-8").split("\n")
    return {token: index for index, token in enumerate(tokens) if token}


def embed(texts: Sequence[str]) -> "Floats":
    """Return the embeddings of texts, (texts, dimensions), normalized to length 1.

    A row does not depend on the other texts. The row of a text without any known word is zero.
    """
    import numpy as np  # noqa: PLC0415

    table = load_table()
    words = [_WORD.findall(text) for text in texts]
    positions = {word: position for position, word in enumerate(dict.fromkeys(chain.from_iterable(words)))}
    vectors = _embed_words(table, positions)
    sums = np.zeros((len(texts), vectors.shape[1]), np.float32)
    batch: list[int] = []
    starts: list[int] = []
    first = 0
    for index, text_words in enumerate(words):
        if len(batch) + len(text_words) > MAX_BATCH_WORDS and batch:
            sums[first:index] = np.add.reduceat(vectors[batch], starts, axis=0)
            batch, starts, first = [], [], index
        if len(text_words) > MAX_BATCH_WORDS:
            counts = np.bincount([positions[word] for word in text_words], minlength=len(vectors))
            sums[index] = counts.astype(np.float32) @ vectors
            first = index + 1
            continue
        starts.append(len(batch))
        batch.append(len(positions))  # the zero vector, so that no text is empty
        batch.extend([positions[word] for word in text_words])
    if batch:
        sums[first:] = np.add.reduceat(vectors[batch], starts, axis=0)
    embeddings: Floats = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), EPSILON)
    return embeddings


def average_neighbours(vectors: "Floats", window: int) -> "Floats":
    """Return for each row the normalized sum of itself and of `window` rows on each side; (rows, dimensions)."""
    import numpy as np  # noqa: PLC0415

    count = len(vectors)
    sums = np.cumsum(np.vstack([np.zeros((1, vectors.shape[1]), np.float32), vectors]), axis=0, dtype=np.float64)
    rows = np.arange(count)
    means = sums[np.minimum(count, rows + window + 1)] - sums[np.maximum(0, rows - window)]
    normalized: Floats = (means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), EPSILON)).astype(np.float32)
    return normalized


def _embed_words(table: Table, words: Iterable[str]) -> "Floats":
    """Return the sum of the token vectors of each word, and a last row of zeros."""
    import numpy as np  # noqa: PLC0415

    tokens: list[int] = []
    starts: list[int] = []
    for word in words:
        starts.append(len(tokens))
        tokens.extend(find_tokens(word) or (0,))
    starts.append(len(tokens))
    tokens.append(0)  # the row of the padding token is zero
    weighted = table.rows[tokens] * table.scales[tokens]
    vectors: Floats = np.add.reduceat(weighted, starts, axis=0)
    return vectors


@lru_cache(CACHED_WORDS)
def find_tokens(word: str) -> tuple[int, ...]:
    """Return the tokens of a word: the word as it is in the vocabulary, or its parts in camel case cut into tokens."""
    word = word[:MAX_WORD_CHARACTERS]
    index = load_vocabulary().get(word.lower())
    if index is not None:
        return (index,)
    parts = _WORD_PART.findall(word) if word.isascii() else _IDEOGRAPH.sub(r" \g<0> ", word).split()
    return tuple(chain.from_iterable(cut_word(fold(part)) for part in parts))


def find_text_tokens(text: str) -> list[int]:
    """Return the tokens that `embed` looks up for a text."""
    return [token for word in _WORD.findall(text) for token in find_tokens(word)]


def fold(text: str) -> str:
    """Return the text in lower case without diacritics and invisible characters, as the vocabulary has it."""
    lower = text.lower()
    if lower.isascii():
        return lower
    return "".join(character for character in normalize("NFD", lower) if category(character) not in ("Mn", "Cf"))


def cut_word(word: str) -> list[int]:
    """Cut a word into the longest tokens of the vocabulary, from left to right; empty if a piece is not in it."""
    vocabulary = load_vocabulary()
    tokens: list[int] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary), start)
        if end == start:
            return []
        tokens.append(vocabulary[prefix + word[start:end]])
        start = end
    return tokens


def measure_coverage(text: str) -> float:
    """Return the share of the letters of a text that are in words of the vocabulary."""
    vocabulary = load_vocabulary()
    words = _WORD.findall(text.lower())
    total = sum(map(len, words))
    return sum(len(word) for word in words if len(word) > 1 and word in vocabulary) / max(1, total)
