"""Token counts with the model's own vocabulary where tiktoken has it, and a labelled estimate everywhere else.

Nothing is counted twice: counts are kept by the text's hash. Nothing is downloaded: only bundled vocabularies are used.
"""

from collections.abc import Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any

import tiktoken
from tiktoken.model import encoding_name_for_model

from ..config import offline
from .memo import Memo

FALLBACK_ENCODING = "o200k_base"
MEMO_SIZE = 200_000  # counts; a count is two small integers, so this stays under 40 MB
MAX_ENCODE_CHARACTERS = 100_000  # characters given to tiktoken at once: its memory grows with the longest unbroken run


class TokenCounter:
    """Counts the tokens of texts in one vocabulary; `exact` says whether it is the model's own."""

    def __init__(self, name: str, *, is_exact: bool) -> None:
        self.name = name
        self.is_exact = is_exact
        self._counts = Memo(self._count_uncached, MEMO_SIZE)

    @property
    def is_loaded(self) -> bool:
        """Say whether the first count has been made: it reads the vocabulary, which takes half a second."""
        return len(self._counts) > 0

    def count(self, text: str) -> int:
        """Count tokens; special-token text counts as the plain text it is (law 9)."""
        return self._counts(text)

    def split_known(self, texts: Iterable[str]) -> tuple[list[int], list[str]]:
        """Return the sizes of the texts that were counted before, and the texts that were not: those take time."""
        return self._counts.split_known(texts)

    def _count_uncached(self, text: str) -> int:
        encoding = _load_encoding(self.name)
        if len(text) <= MAX_ENCODE_CHARACTERS:
            return len(encoding.encode_ordinary(text))
        return sum(
            len(encoding.encode_ordinary(text[at : at + MAX_ENCODE_CHARACTERS]))
            for at in range(0, len(text), MAX_ENCODE_CHARACTERS)
        )


def estimate_tokens(text: str) -> int:
    """Guess the tokens of a text that there is no time to count: most have one for four bytes."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


@lru_cache(maxsize=4096)
def get_token_counter(model: str) -> TokenCounter:
    """Find the vocabulary of a model by its name, with or without a provider prefix (`openai/gpt-4o`)."""
    try:
        name = encoding_name_for_model(model.rsplit("/", 1)[-1])
    except KeyError:
        name = ""
    return (
        _get_shared_counter(name, exact=True)
        if name in offline.BUNDLED_VOCABULARIES
        else _get_shared_counter(FALLBACK_ENCODING, exact=False)
    )


@lru_cache
def _get_shared_counter(name: str, *, exact: bool) -> TokenCounter:
    return TokenCounter(name, is_exact=exact)


class _SlimEncoding(tiktoken.Encoding):
    """tiktoken's, without the table that only its Python side keeps: 27 MB that counting does not need."""

    def __init__(self, name: str) -> None:
        made: dict[str, Any] = import_module("tiktoken_ext.openai_public").ENCODING_CONSTRUCTORS[name]()
        super().__init__(**made)
        self._mergeable_ranks = dict[bytes, int]()


@lru_cache
def _load_encoding(name: str) -> tiktoken.Encoding:
    offline.use_bundled_files()
    return _SlimEncoding(name)
