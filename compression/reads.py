"""Recognises the tool calls that read a file as it is: an agent needs their output verbatim for its next edit."""

import json
import re
from typing import Any, cast

from .transcript import Call

READERS = frozenset({"awk", "bat", "cat", "head", "less", "more", "nl", "sed", "tail"})
_STEP = re.compile(r"&&|\|\||;|\n")
_DISCARD = re.compile(r"\d?>\s*/dev/null|\d>&\d")
_INPLACE = re.compile(r"\bsed\b[^|]*\s(?:-\w*i|--in-place)")
LONGEST_COMMAND = 20_000  # characters; what is longer writes a file rather than reads one


def reads_file(call: Call, tools: frozenset[str]) -> bool:
    """Say whether a call reads a file: one of `tools`, or a shell step like `cat x`, `sed -n 1,9p x`, `nl x | head`."""
    return call.name in tools or any(
        _is_read(step)
        for text in _strings(call.arguments)
        if len(text) <= LONGEST_COMMAND
        for step in _STEP.split(_DISCARD.sub("", text))
    )


def _is_read(step: str) -> bool:
    """Say whether all commands of a pipeline are readers; a search in it makes the output a search result."""
    if ">" in step or "<<" in step or _INPLACE.search(step):
        return False
    commands = [(command.split() or [""])[0] for command in step.split("|")]
    return all(command.rsplit("/", 1)[-1] in READERS for command in commands)


def _strings(arguments: str) -> list[str]:
    """List the string values of a call's arguments; arguments that are not JSON are one string."""
    try:
        parsed: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return [arguments]
    values = list(cast("dict[str, Any]", parsed).values()) if isinstance(parsed, dict) else [parsed]
    return [value if isinstance(value, str) else _joined(value) for value in values]


def _joined(value: object) -> str:
    """Write `["bash", "-lc", "cat x"]` as the command in it: its last word."""
    words = cast("list[object]", value) if isinstance(value, list) else []
    return str(words[-1]) if words else ""
