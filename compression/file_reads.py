"""Recognises tool calls that read a file as it is: an agent needs their output verbatim for its next edit.

A tool reads files if its name says so, in any spelling (`Read`, `read_file`, `mcp__fs__readTextFile`), and an argument
is a path; an editor reads with its command `view`. A shell reads with commands like `cat` or `sed -n`. What is read is
only kept if it may be edited (`file_kinds`).
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, cast

from .file_kinds import is_editable_file, is_path
from .memo import Memo
from .transcript import ToolCall

READ_COMMANDS = frozenset(
    {"awk", "bat", "cat", "get-content", "head", "less", "more", "nl", "sed", "tail"}
) | frozenset(
    {"goto", "open", "scroll_down", "scroll_up"}  # the windows in which SWE-agent shows files
)
_READ_VERBS = frozenset({"cat", "open", "read", "reader", "view", "viewer"})
_WEAK_READ_VERBS = frozenset({"display", "fetch", "get", "inspect", "load", "print", "show"})  # with `file` in the name
_FILE_WORDS = frozenset({"code", "document", "file", "files", "fs", "notebook", "source", "text"})
_EDITOR_WORDS = frozenset({"edit", "editor", "file", "files", "filesystem", "fs", "workspace"})
_OTHER_TASKS = frozenset(
    {"append", "browser", "count", "create", "delete", "diff", "dir", "directories", "directory", "email", "find"}
    | {"folder", "glob", "grep", "history", "image", "info", "issue", "list", "log", "logs", "mail", "media", "memory"}
    | {"message", "metadata", "move", "page", "query", "remove", "replace", "screenshot", "search", "size", "stat"}
    | {"status", "summarize", "symbols", "tree", "update", "url", "urls", "web", "write"}
)
_COMMAND_KEYS = ("command", "action", "operation", "subcommand", "mode")
_FILTER_KEYS = frozenset({"filter", "grep", "jq", "pattern", "regex"})
_PATH_KEY = re.compile(r"(?:.*path|.*file|.*filename|uri|.*documenturi)s?|file(?:s|uri|names?)?")
_NAME_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
_NAME_PREFIX = re.compile(r".*(?:__|[.:/])")  # of an MCP server or a namespace
_COMMAND_SEPARATOR = re.compile(r"&&|\|\||;|\n")
_DISCARDED_OUTPUT = re.compile(r"\d?>\s*/dev/null|\d>&\d")
_IN_PLACE_OPTION = re.compile(r"-[a-zA-Z]*i|--in-place")
_HEREDOC = re.compile(r"<<-?[ \t]*(['\"]?)(\w+)\1[^\n]*\n.*?(?:^[ \t]*\2[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
SHELLS = frozenset({"ash", "bash", "dash", "fish", "ksh", "sh", "zsh"})
MEMO_SIZE = 50_000  # calls remembered, by the hash of their arguments
MAX_COMMAND_CHARACTERS = 20_000  # characters; a longer command writes a file rather than reads one
MAX_PATHS, MAX_DEPTH = 50, 4
ReadPaths = tuple[str, ...] | None


def is_file_read(call: ToolCall, tools: frozenset[str]) -> bool:
    """Return True if a call reads a file: one of `tools`, a reading tool, or a command like `sed -n 1,9p x`."""
    return find_read_paths(call, tools) is not None


def is_editable_read(call: ToolCall, tools: frozenset[str], text: str) -> bool:
    """Return True if a call has read a file, with this output, that may be edited."""
    paths = find_read_paths(call, tools)
    return paths is not None and is_editable_file(paths, text)


def find_read_paths(call: ToolCall, tools: frozenset[str]) -> ReadPaths:
    """Return the paths that a call reads, as far as it names them; None if it reads no file."""
    if call.name in tools or _canonical_name(call.name) in tools:
        return _find_path_arguments(call.arguments)
    if _is_reader_cached(f"{call.name}\n{call.arguments}"):
        return _find_path_arguments(call.arguments)
    return _find_shell_paths_cached(call.arguments)


@lru_cache(maxsize=1_000)
def _split_name(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _NAME_WORD.findall(_NAME_PREFIX.sub("", name[:200])))


def _canonical_name(name: str) -> str:
    return "_".join(_split_name(name))


def _is_reader(name_and_arguments: str) -> bool:
    """Return True if a tool's name, or its command, says that it reads, and an argument is a path."""
    name, _, call_arguments = name_and_arguments.partition("\n")
    words = set(_split_name(name))
    if not _OTHER_TASKS.isdisjoint(words):
        return False
    is_named_reader = not _READ_VERBS.isdisjoint(words) or (
        not _WEAK_READ_VERBS.isdisjoint(words) and not _FILE_WORDS.isdisjoint(words)
    )
    if not is_named_reader and _EDITOR_WORDS.isdisjoint(words):
        return False
    arguments = _parse_object(call_arguments)
    if any(arguments.get(key) for key in _FILTER_KEYS):
        return False
    if not is_named_reader:
        command = next((value for key in _COMMAND_KEYS if isinstance(value := arguments.get(key), str)), "")
        is_named_reader = not (_READ_VERBS | _WEAK_READ_VERBS).isdisjoint(_split_name(command))
    has_path = bool(_find_path_arguments(call_arguments)) or not {"file", "files"}.isdisjoint(words)
    return is_named_reader and has_path and (bool(arguments) or call_arguments.strip() in ("", "{}"))


_is_reader_cached = Memo(_is_reader, MEMO_SIZE)


def _parse_object(arguments: str) -> dict[str, Any]:
    try:
        parsed: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return {}
    return cast("dict[str, Any]", parsed) if isinstance(parsed, dict) else {}


def _list_path_arguments(arguments: str) -> tuple[str, ...]:
    """Return the arguments that are paths by their names, else those that look like paths."""
    parsed = _parse_object(arguments)
    paths = list(_iter_paths(parsed, 0)) or [
        value for value in parsed.values() if isinstance(value, str) and is_path(value)
    ]
    return tuple(paths[:MAX_PATHS])


_find_path_arguments = Memo(_list_path_arguments, MEMO_SIZE)


def _iter_paths(value: object, depth: int, *, names_path: bool = False) -> Iterator[str]:
    """Yield the strings under keys that name paths, at any depth up to `MAX_DEPTH`."""
    if isinstance(value, str):
        if names_path and 0 < len(value) <= 1_000 and (value.startswith("file://") or "://" not in value):
            yield value
    elif depth <= MAX_DEPTH and isinstance(value, dict):
        for key, member in cast("dict[str, object]", value).items():
            yield from _iter_paths(member, depth + 1, names_path=bool(_PATH_KEY.fullmatch(_join_key(key))))
    elif depth <= MAX_DEPTH and isinstance(value, list):
        for member in cast("list[object]", value):
            yield from _iter_paths(member, depth + 1, names_path=names_path)


def _join_key(key: str) -> str:
    return key[:40].lower().replace("_", "").replace("-", "")


def list_argument_values(arguments: str) -> list[str]:
    """Return the values of a call's arguments as strings; arguments that are not JSON are one string."""
    try:
        parsed: Any = json.loads(arguments)
    except (ValueError, RecursionError):
        return [arguments]
    values = list(cast("dict[str, Any]", parsed).values()) if isinstance(parsed, dict) else [parsed]
    return [value if isinstance(value, str) else _join_command(value) for value in values]


def _find_shell_paths(arguments: str) -> ReadPaths:
    """Return the paths that the commands of a shell read, None if none of them is a reader."""
    steps = [
        step
        for text in list_argument_values(arguments)
        if len(text) <= MAX_COMMAND_CHARACTERS
        for step in _COMMAND_SEPARATOR.split(_DISCARDED_OUTPUT.sub("", _HEREDOC.sub("<<", text)))
        if _is_read_step(step)
    ]
    return tuple(path for step in steps for path in _list_command_paths(step))[:MAX_PATHS] if steps else None


_find_shell_paths_cached = Memo(_find_shell_paths, MEMO_SIZE)


def _is_read_step(step: str) -> bool:
    """Return True if all commands of a pipeline are readers; with a search in it, the output is a search result."""
    return not (">" in step or "<<" in step) and all(_is_read_command(command.split()) for command in step.split("|"))


def _is_read_command(words: Sequence[str]) -> bool:
    name = _get_command_name(words)
    return name in READ_COMMANDS and not (name == "sed" and any(map(_IN_PLACE_OPTION.match, words)))


def _get_command_name(words: Sequence[str]) -> str:
    return words[0].rsplit("/", 1)[-1].lower() if words else ""


def _list_command_paths(step: str) -> list[str]:
    """Return the words of a pipeline's first command that may be paths."""
    words = step.split("|", 1)[0].split()
    operands = [word.strip("\"'") for word in words[1:] if not word.startswith(("-", "+"))]
    if _get_command_name(words) in ("awk", "sed"):  # the script; it may hold blanks
        return operands[-1:]
    return [word for word in operands if word and not word.isdigit()]


def _join_command(value: object) -> str:
    """Return `["cat", "x"]` as one command, and the last word of `["bash", "-lc", "cat x"]`."""
    words = [str(word) for word in cast("list[object]", value)] if isinstance(value, list) else []
    return words[-1] if words and words[0].rsplit("/", 1)[-1] in SHELLS else " ".join(words)
