"""Verbatim text of the documents in place of an answer that is not in CLaRa's memories.

Where a checkpoint's abstention head says so, CLaRa writes nothing, and whoever answers for it extracts the documents.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

from .. import markers, registry
from ..compressor import Task
from ..tokens import TokenCounter
from .jobs import ClaraAnswer

LABEL = "[not in memory; extracted from the documents]\n"


async def replace_missing(
    answer: ClaraAnswer, documents: Sequence[str], question: str, max_tokens: int, counter: TokenCounter
) -> ClaraAnswer:
    """Return an answer as it is, or with extracted text of at most `max_tokens` tokens if it is not in memory."""
    if not answer.not_in_memory:
        return answer
    text, is_whole = await asyncio.to_thread(_extract, "\n\n".join(documents), question, max_tokens, counter)
    return answer._replace(
        text=text, finish="stop" if is_whole else "length", completion_tokens=counter.count(text), tokens=()
    )


def _extract(text: str, question: str, max_tokens: int, counter: TokenCounter) -> tuple[str, bool]:
    """Return labelled text of at most `max_tokens` tokens, and False if it was cut."""
    target = max(1, max_tokens - counter.count(LABEL))
    compressed = registry.find_compressor_cached(text).compress(Task(text, question, target, counter.count))
    extract = LABEL + (text if compressed is None else markers.render(compressed, None))
    if counter.count(extract) <= max_tokens:
        return extract, True
    end = bisect_right(range(len(extract)), max_tokens, key=lambda size: counter.count(extract[:size]))
    return extract[: max(0, end - 1)], False
