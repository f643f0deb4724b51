"""Finds the outputs of tools in user and system texts, by the marks of agents that use no tool messages.

Some agents send each output as a message (smolagents, LlamaIndex, gptme, Cline, OpenHands, aider); others send one
growing text (DSPy and LangChain's ReAct). An output depends on the text before it, so it stays the same as more text
follows (the prefix invariant).
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from . import documents
from .file_kinds import classify_path
from .file_reads import find_read_paths
from .memo import Memo
from .transcript import ToolCall

MEMO_SIZE = 20_000
_RESULT_TAGS = (
    "tool_response|tool_result|function_result|function_results|function_response|observation|tool_output|bash-stdout"
    "|local-command-stdout|command-output|stdout|output|output_head|output_tail"
)
_SOURCE_WORD = "(?:Tool|Function|Command|Shell|Terminal|Bash|Execution)"
_SYSTEM_TAG = r"(?:<system>\s*)?"
# Marks at the start of a message. The groups: the tool's name, and its argument.
_MESSAGE_MARKS = tuple(
    re.compile(r"\s*" + pattern)
    for pattern in (
        r"(?:Call id: \S+\s+)?(?:Observations?|OBSERVATIONS?):[ \t]*\n?",  # smolagents, LlamaIndex, SWE-agent
        r"EXECUTION RESULT of \[([\w-]{1,80})\]:[ \t]*\n?",  # OpenHands
        r"\[([\w-]{1,80})(?: for '([^'\n]{0,1000})')?\] Result:[ \t]*\n*",  # Cline, Roo Code
        r"(?:I|The user) ran this command:\s+([^\n]{1,1000})\s+And got this output:\s*",  # aider
        rf"{_SOURCE_WORD}(?: [\w`'-]{{1,80}})? (?:outputs?|results?|response|logs?)(?: \([^)\n]{{0,80}}\))?:[ \t]*\n",
    )
)
_AIDER_MARK = _MESSAGE_MARKS[3]
_FENCED_MARK = re.compile(
    rf"\s*{_SYSTEM_TAG}(?:Ran|Executed)\b[^\n]{{0,300}}?\b(?:command|code)\b(?::? `([^`\n]{{1,1000}})`)?"
)  # gptme
_TAGGED_MARK = re.compile(rf"\s*(?:<returncode>[^<\n]{{1,20}}</returncode>\s*)?<({_RESULT_TAGS})[\s>]")
_RESULT_TAG = re.compile(rf"<(/?)({_RESULT_TAGS})(?:\s[^<>\n]{{0,200}})?>")
MAX_CLOSING_PARAGRAPH = 300  # characters of a last paragraph that may be somebody's words
_INSTRUCTION = re.compile(r"\n(?:Now proceed and carry out this plan|New task:|Now let's retry)")  # smolagents
_TRAJECTORY_OUTPUT = re.compile(
    r"^\[\[ ## observation_\d+ ## \]\][ \t]*\n(.*?)(?=\n\[\[ ## |\nRespond with the corresponding output|\Z)",
    re.DOTALL | re.MULTILINE,
)
_SCRATCHPAD_OUTPUT = re.compile(
    r"^Observation:[ \t]*(.*?)(?=\n(?:Thought|Action|Question|Final Answer|Observation):|\Z)", re.DOTALL | re.MULTILINE
)
_ACTION = re.compile(r"^Action:", re.MULTILINE)


MAX_CALL_CHARACTERS = 4_000
_PATH = re.compile(r"[\w@.+\\/-]*\w\.[A-Za-z]\w{0,9}\b")
_READ_VERB = re.compile(r"\b(?:open|read|view|cat|load|show)", re.IGNORECASE)


class Output(NamedTuple):
    """The span of a tool's output in a text, and its call as far as the text names it."""

    start: int
    end: int
    call: ToolCall | None = None


def find_message_outputs(text: str) -> tuple[Output, ...]:
    """Return the outputs of a text that a mark of tool outputs begins, in order; none for another text."""
    return _find_message_outputs_cached(text) if _may_start_output(text) else ()


def find_embedded_outputs(text: str) -> tuple[Output, ...]:
    """Return the outputs in a text that holds a whole run of an agent, in order."""
    if "[[ ## observation_" not in text and "\nObservation:" not in text:
        return ()
    return _find_embedded_outputs_cached(text)


def _search_call(reply: str) -> ToolCall | None:
    """Return the call in a reply of a model without tools: the last fenced command, or a read of a named file."""
    fences = documents.find_fences(reply)
    code = reply[fences[-1].start : fences[-1].end] if fences else reply[-MAX_CALL_CHARACTERS:]
    call = ToolCall("shell", json.dumps({"command": code}))
    if len(code) <= MAX_CALL_CHARACTERS and find_read_paths(call, frozenset()) is not None:
        return call
    paths = [path for path in _PATH.findall(code[:MAX_CALL_CHARACTERS]) if classify_path(path) == "source"]
    return ToolCall("read_file", json.dumps({"paths": paths})) if paths and _READ_VERB.search(code) else None


find_call = Memo(_search_call, MEMO_SIZE)


def is_user_command(text: str) -> bool:
    """Return True if the user ran a command and shows its output."""
    return _AIDER_MARK.match(text) is not None


def _may_start_output(text: str) -> bool:
    start = text[:40].lstrip()[:1]
    return start in ("<", "[") or start.isupper()


def _search_message(text: str) -> tuple[Output, ...]:
    for pattern in _MESSAGE_MARKS:
        mark = pattern.match(text)
        if mark is not None:
            return (_trim(text, mark.end(), _find_end(text, mark.end()), _build_call(mark)),)
    mark = _FENCED_MARK.match(text)
    if mark is not None:
        call = ToolCall("shell", json.dumps({"command": mark[1]})) if mark[1] else None
        return tuple(_trim(text, fence.start, fence.end, call) for fence in documents.find_fences(text))
    return tuple(_iter_tagged(text)) if _TAGGED_MARK.match(text) else ()


def _find_end(text: str, start: int) -> int:
    """Return the end of an output that a mark begins: before instructions, or a last paragraph of one line."""
    instruction = _INSTRUCTION.search(text, start)
    if instruction is not None:
        return instruction.start()
    end = len(text.rstrip())
    last_paragraph = text.rfind("\n\n", start, end)
    is_closing = last_paragraph >= 0 and "\n" not in text[last_paragraph + 2 : end].strip("\n")
    return last_paragraph if is_closing and end - last_paragraph <= MAX_CLOSING_PARAGRAPH else len(text)


def _iter_tagged(text: str) -> Iterator[Output]:
    opening: re.Match[str] | None = None
    for tag in _RESULT_TAG.finditer(text):
        if opening is None and not tag[1]:
            opening = tag
        elif opening is not None and tag[1] and tag[2] == opening[2]:
            yield _trim(text, opening.end(), tag.start())
            opening = None


_find_message_outputs_cached = Memo(_search_message, MEMO_SIZE)


def _search_embedded(text: str) -> tuple[Output, ...]:
    return tuple(_iter_embedded(text))


_find_embedded_outputs_cached = Memo(_search_embedded, MEMO_SIZE)


def _iter_embedded(text: str) -> Iterator[Output]:
    action = _ACTION.search(text)
    pattern, position = (
        (_TRAJECTORY_OUTPUT, 0)
        if "[[ ## observation_" in text
        else (_SCRATCHPAD_OUTPUT, action.end() if action else -1)
    )
    if position >= 0:
        yield from (_trim(text, *match.span(1)) for match in pattern.finditer(text, position))


def _trim(text: str, start: int, end: int, call: ToolCall | None = None) -> Output:
    """Return the span without white space at its end and without line ends at its start."""
    content = text[start:end]
    start = end - len(content.lstrip("\r\n"))
    return Output(start, max(start, start + len(text[start:end].rstrip())), call)


def _build_call(mark: re.Match[str]) -> ToolCall | None:
    """Return the call that a mark names: a tool with a path or a command, or a command."""
    groups = mark.groups()
    if not groups:
        return None
    if len(groups) == 1 and mark.re is _AIDER_MARK:
        return ToolCall("shell", json.dumps({"command": groups[0]}))
    name, argument = (*groups, None)[:2]
    if not argument:
        return ToolCall(str(name), "{}")
    return ToolCall(str(name), json.dumps({"command" if "command" in str(name) else "path": argument}))
