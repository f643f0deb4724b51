"""Chooses the compressor of a passage: the first in this order that recognises it.

A new compressor is a module in `extract/` and a line here, or an entry point of the group `clara_proxy.compressors` in
another distribution. The fallback comes last and accepts every text.
"""

from functools import cache

from .compressor import Compressor
from .extract.code import CodeCompressor
from .extract.diffs import DiffCompressor
from .extract.envelopes import EnvelopeCompressor, find_inner_text
from .extract.html import HtmlCompressor
from .extract.json.compressor import JsonCompressor
from .extract.listing import ListingCompressor
from .extract.logs import LogCompressor
from .extract.numbered_documents import DocumentCompressor
from .extract.plain_text import PlainTextCompressor
from .extract.prose import ProseCompressor
from .extract.reports import ReportCompressor
from .extract.search import SearchResultCompressor
from .extract.tables import TableCompressor
from .memo import Memo

ENTRY_POINT_GROUP = "clara_proxy.compressors"
MEMO_SIZE = 50_000  # compressors remembered, by the hash of the text
BUILT_IN_COMPRESSORS: tuple[Compressor, ...] = (
    JsonCompressor(),
    HtmlCompressor(),
    DocumentCompressor(),
    TableCompressor(),
    LogCompressor(),
    DiffCompressor(),
    ReportCompressor(),
    ListingCompressor(),
    SearchResultCompressor(),
    CodeCompressor(),
    ProseCompressor(),
)
FALLBACK_COMPRESSOR: Compressor = PlainTextCompressor()


@cache
def list_compressors() -> tuple[Compressor, ...]:
    """Return all compressors in order of precedence.

    An entry point names a compressor, or a class that takes no arguments. The first call raises the `ImportError` of an
    entry point that cannot be imported.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415  slow to import, and needed once

    return (
        *BUILT_IN_COMPRESSORS,
        *(_instantiate(point.load()) for point in entry_points(group=ENTRY_POINT_GROUP)),
        FALLBACK_COMPRESSOR,
    )


def _instantiate(loaded: Compressor | type[Compressor]) -> Compressor:
    return loaded() if isinstance(loaded, type) else loaded


def find_compressor(text: str) -> Compressor:
    """Return the first compressor that recognises the text; of an envelope, the text inside decides."""
    inner = find_inner_text(text)
    if inner is not None:
        return EnvelopeCompressor(find_compressor(inner).name, find_compressor)
    return next(compressor for compressor in list_compressors() if compressor.recognises(text))


find_compressor_cached = Memo(find_compressor, MEMO_SIZE)


def classify_content(text: str) -> str:
    """Return the text's kind of content, the name of its compressor."""
    return find_compressor_cached(text).name
