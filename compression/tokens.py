"""Counts tokens: exactly in the vocabularies that tiktoken bundles, with a labelled estimate for other models.

No text is counted twice: counts are remembered by the text's hash. Nothing is downloaded.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any

import tiktoken
from tiktoken.model import encoding_name_for_model

from ..config import offline
from .memo import Memo

FALLBACK_ENCODING = "o200k_base"
MEMO_SIZE = 200_000  # counts; a count is two small integers, so this stays under 40 MB
MAX_ENCODE_CHARACTERS = 100_000  # characters per call of tiktoken: its memory grows with the longest unbroken run


class TokenCounter:
    """Counts the tokens of texts in one vocabulary; `is_exact` is True if it is the model's own.

    `count` returns the number of tokens of a text; special tokens spelt in it count as plain text.
    """

    def __init__(self, name: str, *, is_exact: bool) -> None:
        self.name = name
        self.is_exact = is_exact
        self._counts = Memo(self._count_uncached, MEMO_SIZE)
        self.count: Callable[[str], int] = self._counts

    @property
    def is_loaded(self) -> bool:
        """Return True after the first count, which reads the vocabulary and takes half a second."""
        return len(self._counts) > 0

    def split_known(self, texts: Iterable[str]) -> tuple[list[int], list[str]]:
        """Return the remembered counts, and the texts that still have to be counted, which takes time."""
        return self._counts.split_known(texts)

    def _count_uncached(self, text: str) -> int:
        encoding = _load_encoding(self.name)
        if len(text) <= MAX_ENCODE_CHARACTERS:
            return len(encoding.encode_ordinary(text))
        return sum(
            len(encoding.encode_ordinary(text[start : start + MAX_ENCODE_CHARACTERS]))
            for start in range(0, len(text), MAX_ENCODE_CHARACTERS)
        )


def estimate_tokens(text: str) -> int:
    """Return a quick estimate: one token for four bytes."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


@lru_cache(maxsize=4096)
def get_token_counter(model: str) -> TokenCounter:
    """Return the counter of a model, named with or without a provider prefix (`openai/gpt-4o`)."""
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
    """A tiktoken encoding without the table that only its Python side uses: 27 MB less."""

    def __init__(self, name: str) -> None:
        arguments: dict[str, Any] = import_module("tiktoken_ext.openai_public").ENCODING_CONSTRUCTORS[name]()
        super().__init__(**arguments)
        self._mergeable_ranks = dict[bytes, int]()


@lru_cache
def _load_encoding(name: str) -> tiktoken.Encoding:
    offline.use_bundled_files()
    return _SlimEncoding(name)
