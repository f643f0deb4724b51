"""Training records from recorded agent runs: chats in OpenAI's format, one JSON object with `messages` a line.

A literal of a tool output counts as used if it does not occur before the output and the assistant writes it, or calls a
tool with it, afterwards.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...models.errors import ModelError
from .example_records import (
    DOCUMENT_COUNT,
    add_earlier_windows,
    find_answer_lines,
    find_literals,
    make_record,
    split_windows,
)

Message = dict[str, Any]


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield training records from a file of JSON lines, or from all `*.jsonl` files of a folder in name order.

    Raises `ModelError` with the file and the line number for a line that is not a recorded chat.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise ModelError(f"{path} contains no *.jsonl files")
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    messages: list[Message] = json.loads(line)["messages"]
                    records = list(chat_records(messages))
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise ModelError(f"{file}, line {number}: not a recorded chat ({error!r})") from error
                yield from records


def chat_records(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    """Yield one record for every tool output of a chat that the assistant used later."""
    texts = [_message_text(message) for message in messages]
    literals = [find_literals(text) for text in texts]
    used_later = _later_literals(messages, literals)
    seen: set[str] = set()
    earlier: list[str] = []
    for index, message in enumerate(messages):
        if message.get("role") == "tool":
            windows = split_windows(texts[index])
            used = (literals[index] & used_later[index]) - seen
            lines = find_answer_lines(texts[index], used)
            record = make_record(lines, add_earlier_windows(windows, earlier), _question(messages, texts, index))
            if record is not None:
                yield record
            earlier = [*earlier, *windows][-DOCUMENT_COUNT:]
        seen |= literals[index]


def _later_literals(messages: Sequence[Message], literals: Sequence[frozenset[str]]) -> list[frozenset[str]]:
    """Return, for each message, the literals of all later assistant messages and their tool calls."""
    result: list[frozenset[str]] = []
    later: frozenset[str] = frozenset()
    for message, own in zip(reversed(messages), reversed(literals), strict=True):
        result.append(later)
        later = later | own if message.get("role") == "assistant" else later
    return result[::-1]


def _question(messages: Sequence[Message], texts: Sequence[str], index: int) -> str:
    """Return the end of the last user text and of the last tool call before a message."""
    before = list(zip(texts[:index], messages[:index], strict=True))[::-1]
    user = next((text for text, message in before if message.get("role") == "user"), "")
    call = next((text for text, message in before if message.get("tool_calls")), "")
    return f"{user.strip()[-400:]}\n{call.strip()[-200:]}".strip()


def _message_text(message: Message) -> str:
    """Return the text of a message and of its tool calls."""
    content = message.get("content") or ""
    parts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content]
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return "\n".join([*parts, *(f"{call['name']} {call['arguments']}" for call in calls)])
