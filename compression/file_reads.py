"""Recognises tool calls that read a file as it is: an agent needs their output verbatim for its next edit."""

import json
import re
from collections.abc import Sequence
from typing import Any, cast

from .memo import Memo
from .transcript import ToolCall

READ_COMMANDS = frozenset({"awk", "bat", "cat", "head", "less", "more", "nl", "sed", "tail"}) | frozenset(
    {"goto", "open", "scroll_down", "scroll_up"}  # the windows in which SWE-agent shows files
)
_COMMAND_SEPARATOR = re.compile(r"&&|\|\||;|\n")
_DISCARDED_OUTPUT = re.compile(r"\d?>\s*/dev/null|\d>&\d")
_IN_PLACE_OPTION = re.compile(r"-[a-zA-Z]*i|--in-place")
_HEREDOC = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1[^\n]*\n.*?(?:^[ \t]*\2[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
SHELLS = frozenset({"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"})
MEMO_SIZE = 50_000  # calls remembered, by the hash of their arguments
MAX_COMMAND_CHARACTERS = 20_000  # characters; a longer command writes a file rather than reads one


def is_file_read(call: ToolCall, tools: frozenset[str]) -> bool:
    """Return True if a call reads a file: one of `tools`, or a command like `sed -n 1,9p x` or `nl x | head`."""
    return call.name in tools or _has_shell_read_cached(call.arguments)


def list_argument_values(arguments: str) -> list[str]:
    """Return the values of a call's arguments as strings; arguments that are not JSON are one string."""
    try:
        parsed: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return [arguments]
    values = list(cast("dict[str, Any]", parsed).values()) if isinstance(parsed, dict) else [parsed]
    return [value if isinstance(value, str) else _join_command(value) for value in values]


def _has_shell_read(arguments: str) -> bool:
    return any(
        _is_read_step(step)
        for text in list_argument_values(arguments)
        if len(text) <= MAX_COMMAND_CHARACTERS
        for step in _COMMAND_SEPARATOR.split(_DISCARDED_OUTPUT.sub("", _HEREDOC.sub("<<", text)))
    )


_has_shell_read_cached = Memo(_has_shell_read, MEMO_SIZE)


def _is_read_step(step: str) -> bool:
    """Return True if all commands of a pipeline are readers; with a search in it, the output is a search result."""
    return not (">" in step or "<<" in step) and all(_is_read_command(command.split()) for command in step.split("|"))


def _is_read_command(words: Sequence[str]) -> bool:
    name = words[0].rsplit("/", 1)[-1] if words else ""
    return name in READ_COMMANDS and not (name == "sed" and any(map(_IN_PLACE_OPTION.match, words)))


def _join_command(value: object) -> str:
    """Return `["cat", "x"]` as one command, and the last word of `["bash", "-lc", "cat x"]`."""
    words = [str(word) for word in cast("list[object]", value)] if isinstance(value, list) else []
    return words[-1] if words and words[0].rsplit("/", 1)[-1] in SHELLS else " ".join(words)
