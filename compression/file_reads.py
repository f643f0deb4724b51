"""Recognises the tool calls that read a file as it is: an agent needs their output verbatim for its next edit."""

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from .memo import Memo
from .transcript import ToolCall

READ_COMMANDS = frozenset({"awk", "bat", "cat", "head", "less", "more", "nl", "sed", "tail"}) | frozenset(
    {"goto", "open", "scroll_down", "scroll_up"}  # the windows in which SWE-agent shows files
)
_STEP = re.compile(r"&&|\|\||;|\n")
_DISCARD = re.compile(r"\d?>\s*/dev/null|\d>&\d")
_INPLACE = re.compile(r"-[a-zA-Z]*i|--in-place")
_HEREDOC = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1[^\n]*\n.*?(?:^[ \t]*\2[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
SHELLS = frozenset({"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"})
MEMO_SIZE = 50_000  # calls remembered, by the hash of their arguments
MAX_COMMAND_CHARACTERS = 20_000  # characters; what is longer writes a file rather than reads one


def is_file_read(call: ToolCall, tools: frozenset[str]) -> bool:
    """Say whether a call reads a file: one of `tools`, or a shell step like `cat x`, `sed -n 1,9p x`, `nl x | head`."""
    return call.name in tools or _by_shell(call.arguments)


def _reads_by_shell(arguments: str) -> bool:
    return any(
        _is_read(step)
        for text in list_argument_values(arguments)
        if len(text) <= MAX_COMMAND_CHARACTERS
        for step in _STEP.split(_DISCARD.sub("", _HEREDOC.sub("<<", text)))
    )


_by_shell = Memo(_reads_by_shell, MEMO_SIZE)


def _is_read(step: str) -> bool:
    """Say whether all commands of a pipeline are readers; a search in it makes the output a search result."""
    return not (">" in step or "<<" in step) and all(_is_reader(command.split()) for command in step.split("|"))


def _is_reader(words: Sequence[str]) -> bool:
    name = words[0].rsplit("/", 1)[-1] if words else ""
    return name in READ_COMMANDS and not (name == "sed" and any(map(_INPLACE.match, words)))


def list_argument_values(arguments: str) -> list[str]:
    """List the values of a call's arguments as strings; arguments that are not JSON are one string."""
    try:
        parsed: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return [arguments]
    values = list(cast("dict[str, Any]", parsed).values()) if isinstance(parsed, dict) else [parsed]
    return [value if isinstance(value, str) else _joined(value) for value in values]


def _joined(value: object) -> str:
    """Write `["cat", "x"]` as a command, and `["bash", "-lc", "cat x"]` as the one in it: its last word."""
    words = [str(word) for word in cast("list[object]", value)] if isinstance(value, list) else []
    return words[-1] if words and words[0].rsplit("/", 1)[-1] in SHELLS else " ".join(words)
