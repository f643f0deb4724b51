"""Verbatim text of the documents in place of an answer that is not in CLaRa's memories.

CLaRa writes nothing if the checkpoint's abstention head refuses; the endpoint then returns an extract.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Sequence

from .. import markers, registry
from ..compressor import Task
from ..tokens import TokenCounter
from .jobs import ClaraAnswer

LABEL = "[not in memory; extracted from the documents]\n"
_TARGET_SHARES = (1.0, 0.7, 0.4)  # of the room: the marks of gaps take some of it


async def replace_missing(
    answer: ClaraAnswer, documents: Sequence[str], question: str, max_tokens: int, counter: TokenCounter
) -> ClaraAnswer:
    """Return an answer as it is, or with extracted text of at most `max_tokens` tokens if it is not in memory."""
    if not answer.not_in_memory:
        return answer
    text, is_whole = await asyncio.to_thread(extract, "\n\n".join(documents), question, max_tokens, counter)
    return answer._replace(
        text=text, finish="stop" if is_whole else "length", completion_tokens=counter.count(text), tokens=()
    )


def extract(text: str, question: str, max_tokens: int, counter: TokenCounter) -> tuple[str, bool]:
    """Return labelled text of at most `max_tokens` tokens, and False if it was cut."""
    compressor, room = registry.find_compressor_cached(text), max_tokens - counter.count(LABEL)
    extracted = LABEL + text
    for share in _TARGET_SHARES if counter.count(extracted) > max_tokens else ():
        compressed = compressor.compress(Task(text, question, max(1, int(share * room)), counter.count))
        if compressed is not None:
            extracted = LABEL + markers.render(compressed, None)
        if counter.count(extracted) <= max_tokens:
            break
    if counter.count(extracted) <= max_tokens:
        return extracted, True
    end = bisect_right(range(len(extracted)), max_tokens, key=lambda size: counter.count(extracted[:size]))
    return extracted[: max(0, end - 1)], False
