"""Which compressor gets a passage: the first that recognises it, in this order.

A compressor is one file in `extract/` and one line here, or an entry point of the group `clara_proxy.compressors` in
another distribution. The catch-all comes last and takes everything, so `find` always has an answer.
"""

from functools import cache

from .compressor import Compressor
from .extract.code import CodeCompressor
from .extract.diffs import DiffCompressor
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

ENTRY_POINT_GROUP = "clara_proxy.compressors"
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
    """List all compressors in the order in which they are asked.

    An entry point names a compressor or a class of them that takes no arguments. One that cannot be imported raises
    here, at the first call, rather than being left out without a word.
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
    """Return the first compressor that recognises the text."""
    return next(compressor for compressor in list_compressors() if compressor.recognises(text))
