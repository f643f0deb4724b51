"""Prints all weights of extraction as a table: `python -m clara_proxy.compression.extract.weights`."""

import sys
from collections.abc import Iterator
from dataclasses import fields

from .code import CodeWeights
from .core.base_weights import ExtractWeights
from .core.lines import LineWeights
from .core.outliers import OutlierWeights
from .core.stack_traces import TraceWeights
from .diffs import DiffWeights
from .html_parser import HtmlWeights
from .json.weights import JsonWeights
from .listing import ListingWeights
from .log_entries import LogWeights
from .numbered_documents import DocumentWeights
from .plain_text import PlainTextWeights
from .prose import ProseWeights
from .reports import ReportWeights
from .search import SearchWeights
from .table_parser import TableWeights

CONTENT_TYPES: dict[str, type[ExtractWeights]] = {  # by the name of the compressor
    "json": JsonWeights,
    "html": HtmlWeights,
    "documents": DocumentWeights,
    "table": TableWeights,
    "log": LogWeights,
    "diff": DiffWeights,
    "report": ReportWeights,
    "listing": ListingWeights,
    "search": SearchWeights,
    "code": CodeWeights,
    "prose": ProseWeights,
    "lines": PlainTextWeights,
}
SHARED_WEIGHTS: dict[str, type[ExtractWeights]] = {
    "all": ExtractWeights,
    "json, table": OutlierWeights,
    "lines, log, report": LineWeights,
    "log, report": TraceWeights,
}


def describe_weights() -> str:
    """Return a table of all default weights: content type, name, value, unit, meaning.

    Shared weights come first; the rows of a content type are its own weights and the shared ones it overrides.
    """
    header = ("content type", "weight", "value", "unit", "meaning")
    rows = [header, *_iter_rows()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _iter_rows() -> Iterator[tuple[str, ...]]:
    shared_types = set(SHARED_WEIGHTS.values())
    for content_type, weights in (SHARED_WEIGHTS | CONTENT_TYPES).items():
        base = next((parent for parent in weights.__mro__[1:] if parent in shared_types), None)
        inherited = {item.name: item.default for item in fields(base)} if base is not None else {}
        for item in fields(weights):
            if item.name not in inherited or item.default != inherited[item.name]:
                unit, meaning = item.metadata["unit"], item.metadata["meaning"]
                yield content_type, item.name, str(item.default), unit, meaning


if __name__ == "__main__":
    sys.stdout.write(describe_weights() + "\n")
