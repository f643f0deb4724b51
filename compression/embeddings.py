"""Static sentence embeddings: the normalized sum of one vector per token, looked up in a table.

The table is distilled from all-MiniLM-L6-v2 by `benchmarks/embedding_table.py`; `embedding_table/NOTICE.md` states its
source and licence. Rows are int8 with one scale each, in the order of the vocabulary, and mapped from the file, so that
processes share them. numpy is imported on first use.
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import category, normalize

from .extract.core.bm25 import STOP_WORDS
from .extract.core.terms import SPAN_END, WORD, make_word_reader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Indices = NDArray[np.intp]

FOLDER = Path(__file__).with_name("embedding_table")
MAX_WORD_CHARACTERS = 60  # the rest of a longer word, usually a blob, is ignored
BATCH_GROUPS = 128  # summed at once; their sums fit the processor's cache
BATCH_ROWS = 1_024  # averaged with their neighbours at once
MAX_STEPS = 256  # rows of a group that are added step by step
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

    A row does not depend on the other texts. It is zero if the text has no known word besides stop words.
    """
    import numpy as np  # noqa: PLC0415

    table = load_table()
    words = _list_words(texts)
    ids = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokens = list(map(find_tokens, ids))
    used, places = np.unique(np.fromiter(chain.from_iterable(tokens), np.intp), return_inverse=True)
    sizes = np.fromiter(map(len, tokens), np.intp, len(tokens))
    occurrences = np.fromiter(map(ids.__getitem__, words), np.intp, len(words))
    counts = sizes[occurrences]
    offsets = (np.cumsum(sizes) - sizes)[occurrences] - (np.cumsum(counts) - counts)
    members = places[np.repeat(offsets, counts) + np.arange(counts.sum())]
    ends = np.cumsum(counts)[occurrences == ids.get(SPAN_END, -1)]
    sums = _sum_rows(table.rows[used] * table.scales[used], members, np.diff(ends, prepend=0))
    sums /= np.maximum(np.sqrt(np.einsum("ij,ij->i", sums, sums)), EPSILON)[:, None]
    return sums


def _list_words(texts: Sequence[str]) -> list[str]:
    """Return the words of all texts, with SPAN_END after each text."""
    joined = "\n".join(texts).replace("_", " ")
    ends = list(accumulate((len(text) + 1 for text in texts), initial=0))
    return make_word_reader(joined, WORD)([(start, end - 1) for start, end in pairwise(ends)])


def average_neighbours(vectors: "Floats", window: int) -> "Floats":
    """Return for each row the normalized sum of itself and of `window` rows on each side; (rows, dimensions)."""
    import numpy as np  # noqa: PLC0415

    means = np.empty_like(vectors)
    for first in range(0, len(vectors), BATCH_ROWS):
        rows = np.arange(first, min(len(vectors), first + BATCH_ROWS))
        start, end = max(0, first - window), min(len(vectors), first + BATCH_ROWS + window)
        sums = np.cumsum(np.vstack([np.zeros((1, vectors.shape[1]), np.float32), vectors[start:end]]), axis=0)
        means[rows] = sums[np.minimum(end, rows + window + 1) - start] - sums[np.maximum(start, rows - window) - start]
    means /= np.maximum(np.sqrt(np.einsum("ij,ij->i", means, means)), EPSILON)[:, None]
    return means


def _sum_rows(rows: "Floats", members: "Indices", lengths: "Indices") -> "Floats":
    """Return the sums of successive groups of rows, (groups, dimensions); zeros for an empty group.

    The first rows of many groups are added at once, then the second ones, and so on; `reduceat` takes several times as
    long.
    """
    import numpy as np  # noqa: PLC0415

    starts = np.cumsum(lengths) - lengths
    order = np.argsort(-lengths, kind="stable")  # the longest groups come first
    sums: Floats = np.zeros((len(lengths), rows.shape[1]), np.float32)
    for first in range(0, len(order), BATCH_GROUPS):
        groups = order[first : first + BATCH_GROUPS]
        group_starts, group_lengths = starts[groups], lengths[groups]
        batch_sums: Floats = np.zeros((len(groups), rows.shape[1]), np.float32)
        for position in range(min(MAX_STEPS, int(group_lengths[0]))):
            count = int(np.searchsorted(-group_lengths, -position))
            batch_sums[:count] += rows[members[group_starts[:count] + position]]
        for group in range(int(np.searchsorted(-group_lengths, -MAX_STEPS))):
            start = group_starts[group]
            batch_sums[group] += rows[members[start + MAX_STEPS : start + group_lengths[group]]].sum(axis=0)
        sums[groups] = batch_sums
    return sums


@lru_cache(CACHED_WORDS)
def find_tokens(word: str) -> tuple[int, ...]:
    """Return the tokens of a word: the word as it is in the vocabulary, or its parts in camel case cut into tokens.

    A stop word has none; without them similar texts are found more often, and in half the time.
    """
    word = word[:MAX_WORD_CHARACTERS]
    lower = word.lower()
    index = load_vocabulary().get(lower)
    if index is not None:
        return () if lower in STOP_WORDS else (index,)
    parts = _WORD_PART.findall(word) if word.isascii() else _IDEOGRAPH.sub(r" \g<0> ", word).split()
    return tuple(chain.from_iterable(cut_word(fold(part)) for part in parts))


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
