"""Loads vocabularies, compressors and prices at start, so that the first request need not load them."""

from collections.abc import Iterable
from threading import Lock

from ...compression import registry
from ...compression.extract.core import semantic
from ...compression.tokens import get_token_counter
from ...config import prices

_DEFAULT_MODELS = ("", "gpt-4o")  # unknown models share the vocabulary of gpt-4o, with a counter of their own
_lock = Lock()  # two applications that start in one process must not load the same files twice


def preload(models: Iterable[str] = ()) -> None:
    """Load the price table, the compressors, the default vocabulary and the vocabularies of these models.

    It blocks for about half a second, so call it in a thread. A second call only loads vocabularies that are new.
    """
    with _lock:
        prices.find_price("")
        for token_counter in {get_token_counter(model) for model in (*_DEFAULT_MODELS, *models)}:
            token_counter.count("")
        semantic.load_installed_model()
        registry.list_compressors()
