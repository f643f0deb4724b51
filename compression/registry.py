"""Which compressor gets a passage: the first that recognises it, in this order.

A compressor is one file in `extract/` and one line here, or an entry point of the group `clara_proxy.compressors` in
another distribution. The catch-all comes last and takes everything, so `find` always has an answer.
"""

from functools import cache

from .compressor import Compressor
from .extract.code import Code
from .extract.diffs import Diffs
from .extract.html import Html
from .extract.json.compressor import JsonData
from .extract.lines import Lines
from .extract.listing import Listing
from .extract.logs import Logs
from .extract.numbered_documents import Numbered
from .extract.prose import Prose
from .extract.reports import Reports
from .extract.search import Search
from .extract.tables import Tables

GROUP = "clara_proxy.compressors"
BUILT_IN: tuple[Compressor, ...] = (
    JsonData(),
    Html(),
    Numbered(),
    Tables(),
    Logs(),
    Diffs(),
    Reports(),
    Listing(),
    Search(),
    Code(),
    Prose(),
)
CATCH_ALL: Compressor = Lines()


@cache
def compressors() -> tuple[Compressor, ...]:
    """List all compressors in the order in which they are asked.

    An entry point names a compressor or a class of them that takes no arguments. One that cannot be imported raises
    here, at the first call, rather than being left out without a word.
    """
    from importlib.metadata import entry_points  # noqa: PLC0415  slow to import, and needed once

    return (*BUILT_IN, *(_made(point.load()) for point in entry_points(group=GROUP)), CATCH_ALL)


def _made(loaded: Compressor | type[Compressor]) -> Compressor:
    return loaded() if isinstance(loaded, type) else loaded


def find(text: str) -> Compressor:
    """Return the first compressor that recognises the text."""
    return next(compressor for compressor in compressors() if compressor.recognises(text))
