"""Training lines from recorded agent runs: what the agent used of a tool's output later is the answer.

Reads chats in OpenAI's format, one JSON object a line with `messages`; calls no model. A literal counts as used when it
stands in the output, nowhere before it, and in something the assistant wrote or called afterwards; the answer is the
lines that hold such literals, so it is always verbatim.
"""

import json
import re
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import ClaraError

DOCUMENTS = 5  # of each line, as many as the released models were tuned with
WINDOW = 700  # characters of a document: about what 256 tokens hold, in code and logs too
LINES = 3  # of an answer, at most
_LITERAL = re.compile(r"[A-Za-z0-9_][\w./:@#-]{3,}[\w/]")

Message = dict[str, Any]


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Yield training records from a file of JSON lines, or from all such files of a folder, in the order of names.

    Raises `ClaraError` naming file and line where a line is not a recorded chat.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ClaraError(f"{path}: no *.jsonl files in it")
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    messages: list[Message] = json.loads(line)["messages"]
                    found = list(records(messages))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ClaraError(f"{file}, line {number}: not a recorded chat ({error!r})") from error
                yield from found


def records(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Yield one record for every tool output of a chat that was used later.

    An output of fewer than `DOCUMENTS` windows is filled up with the last ones of earlier outputs.
    """
    texts = [_text(message) for message in messages]
    held = [literals(text) for text in texts]
    later = _later(messages, held)
    known: set[str] = set()
    earlier: list[str] = []
    for place, message in enumerate(messages):
        if message.get("role") == "tool":
            own = windows(texts[place])
            used = (held[place] & later[place]) - known
            made = record(answer(texts[place], used), filled(own, earlier), _question(messages, texts, place))
            if made is not None:
                yield made
            earlier = [*earlier, *own][-DOCUMENTS:]
        known |= held[place]


def _later(messages: Sequence[Message], literals: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Return, for each message, the literals of everything the assistant said and called after it."""
    found: list[frozenset[str]] = []
    so_far: frozenset[str] = frozenset()
    for message, own in zip(reversed(messages), reversed(literals), strict=True):
        found.append(so_far)
        so_far = so_far | own if message.get("role") == "assistant" else so_far
    return found[::-1]


def literals(text: str) -> frozenset[str]:
    """Return the names, paths, numbers and long words of a text."""
    return frozenset(_LITERAL.findall(text))


def answer(output: str, used: AbstractSet[str]) -> list[str]:
    """Return the first lines of an output that hold a literal that was used."""
    return [line.strip() for line in output.splitlines() if used & literals(line)][:LINES]


def filled(own: list[str], earlier: Sequence[str]) -> list[str]:
    """Put the last windows of earlier outputs before those of one that has too few."""
    return [*(earlier[-(DOCUMENTS - len(own)) :] if len(own) < DOCUMENTS else ()), *own]


def record(lines: Sequence[str], windows: Sequence[str], question: str) -> dict[str, Any] | None:
    """Return a training record whose answer are these lines; None when no window holds one, or there are too few."""
    helpful = [place for place, window in enumerate(windows) if any(line in window for line in lines)]
    if not helpful or len(windows) < DOCUMENTS:
        return None
    start = max(0, min(helpful[0] - DOCUMENTS // 2, len(windows) - DOCUMENTS))
    inside = [place - start for place in helpful if start <= place < start + DOCUMENTS]
    chosen = list(windows[start : start + DOCUMENTS])
    shown = [line for line in lines if any(line in window for window in chosen)]
    return {"docs": chosen, "question": question, "answer": "\n".join(shown), "pos_index": inside, "data_type": "qa"}


def windows(text: str) -> list[str]:
    """Cut a text into pieces of whole lines, each at most `WINDOW` characters; longer lines are cut."""
    pieces = [line[at : at + WINDOW] for line in text.splitlines(keepends=True) for at in range(0, len(line), WINDOW)]
    ends, size = [0], 0
    for place, piece in enumerate(pieces):
        if size + len(piece) > WINDOW:
            ends.append(place)
            size = 0
        size += len(piece)
    return ["".join(pieces[start:end]) for start, end in pairwise([*ends, len(pieces)]) if end > start]


def _question(messages: Sequence[Message], texts: Sequence[str], place: int) -> str:
    """Return what the output was wanted for: the nearest user's words and the call."""
    asked = next((text for text, at in _before(messages, texts, place) if at.get("role") == "user"), "")
    call = next((text for text, at in _before(messages, texts, place) if at.get("tool_calls")), "")
    return f"{asked.strip()[-400:]}\n{call.strip()[-200:]}".strip()


def _before(messages: Sequence[Message], texts: Sequence[str], place: int) -> list[tuple[str, Message]]:
    return list(zip(texts[:place], messages[:place], strict=True))[::-1]


def _text(message: Message) -> str:
    """Return a message's words, its calls included."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return "\n".join([*parts, *(f"{call['name']} {call['arguments']}" for call in calls)])
