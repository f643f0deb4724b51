"""The scripted model: it runs the check, reads four files, and edits each from the text that it was shown.

It keeps no state: a reply depends on the request alone, so that requests for titles and repeated requests do no harm.
An edit replaces the whole text that was read, so text that a proxy changed fails to match, or ends up in the file.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from ...proxy.protocols.json_types import Json
from .conversation import Call, Conversation, Reply
from .workspace import CHECK_COMMAND, EDITS, Edit, build_files

EXPAND_TOOL = "clara_expand"
TITLE = "Change the rounding"  # the answer to requests without the agent's tools
_REFERENCE = re.compile(rf"{EXPAND_TOOL} ([0-9a-f]{{12,}})")
_NUMBERED_LINE = re.compile(r"^ *\d+(?:\t|→|\| ?|: )(.*)$")
_ERROR = re.compile(r"\bERROR pricing[\w. =-]*", re.MULTILINE)
Decide = Callable[[Conversation], Reply]


@dataclass(frozen=True)
class Toolset:
    """The calls by which one client runs a command, reads a file, and replaces the text of a file.

    With `absolute_paths`, the client refuses paths relative to the project.
    """

    run: Callable[[str], Call]
    read: Callable[[str], Call]
    write: Callable[[str, str, str], Call]  # path, text that was read, new text
    finish: Callable[[str], Call] | None = None
    absolute_paths: bool = False


def use_tools(conversation: Conversation, *, toolset: Toolset, project: Path, expand: bool) -> Reply:
    """Return the next reply to an agent that offers tools; `expand` fetches the original of the log once."""
    root = f"{project}/" if toolset.absolute_paths else ""
    results = conversation.results
    run = toolset.run(CHECK_COMMAND)._replace(id="call_run")
    if run.name not in conversation.tools or run.id not in results:
        return Reply("I run the check first.", (run,)) if run.name in conversation.tools else Reply(TITLE)
    reference = _REFERENCE.search(results[run.id])
    if expand and reference and EXPAND_TOOL in conversation.tools and "call_original" not in results:
        return Reply("", (Call(EXPAND_TOOL, {"id": reference[1]}, "call_original"),))
    reads = [toolset.read(root + edit.path)._replace(id=f"call_read_{number}") for number, edit in enumerate(EDITS)]
    if missing := [call for call in reads if call.id not in results]:
        return Reply("I read the files." if len(missing) == len(reads) else "", tuple(missing[:2]))
    for number, edit in enumerate(EDITS):
        seen = find_file_text(edit.path, results[reads[number].id])
        write = toolset.write(root + edit.path, seen, apply_edit(edit, seen))._replace(id=f"call_write_{number}")
        if write.id not in results:
            return Reply("", (write,))
    answer = describe_result(unwrap_output(results.get("call_original", "") or results[run.id]))
    if toolset.finish is None:
        return Reply(answer)
    finish = toolset.finish(answer)._replace(id="call_finish")
    return Reply("", (finish,)) if finish.id not in results else Reply(answer)


def find_file_text(path: str, output: str) -> str:
    """Return the text of a file as a tool showed it, without line numbers and without what frames it."""
    first, *_, last = build_files()[path].rstrip("\n").split("\n")
    lines = unwrap_output(output).split("\n")
    numbered = [match[1] for line in lines if (match := _NUMBERED_LINE.match(line))]
    if len(numbered) > len(lines) / 2:
        lines = numbered
    start = next((index for index, line in enumerate(lines) if line == first), 0)
    end = max((index for index, line in enumerate(lines) if line == last), default=len(lines) - 1)
    return "\n".join(lines[start : end + 1]) + "\n"


def unwrap_output(output: str) -> str:
    """Return the output of a command that a client shows as JSON; other outputs as they are."""
    try:
        parsed: Any = json.loads(output)
        return str(parsed["output"])
    except (ValueError, LookupError, TypeError):
        return output


def apply_edit(edit: Edit, seen: str) -> str:
    """Return the text with the line of an edit changed."""
    return seen.replace(edit.old, edit.new)


def describe_result(log: str) -> str:
    """Return the final answer, which quotes the error of the log."""
    error = _ERROR.search(log)
    return f"The check fails with: {error[0].strip() if error else 'nothing to be seen'}. All four files are changed."


def use_text(conversation: Conversation, *, fence: str, last: str | None) -> Reply:
    """Return the next reply to an agent without tools: each is one fenced command, and its output the next message.

    `last` is the command that ends the run, with a place for the answer; None if a text without a fence ends it.
    """
    opening = f"```{fence}\n"
    outputs = [
        after.text
        for message, after in pairwise(conversation.messages)
        if message.role == "assistant" and opening in message.text
    ]
    commands = [CHECK_COMMAND, *(f"cat {edit.path}" for edit in EDITS)]
    for number, edit in enumerate(EDITS, start=1):
        if number < len(outputs):
            new = apply_edit(edit, find_file_text(edit.path, outputs[number]))
            commands.append(f"cat > {edit.path} <<'END_OF_FILE'\n{new}END_OF_FILE")
    if len(outputs) < 2 * len(EDITS) + 1:
        return Reply(f"The next step.\n\n{opening}{commands[len(outputs)]}\n```\n")
    answer = describe_result(outputs[0])
    return Reply(answer if last is None else f"{answer}\n\n{opening}{last.format(answer)}\n```\n")


def build_files_reply(conversation: Conversation, *, form: str) -> Reply:
    """Return all edits in one text, as aider expects them: `whole` files, or a `diff` of search and replace blocks."""
    pieces: list[str] = []
    for edit in EDITS:
        shown = list(
            re.finditer(rf"^{re.escape(edit.path)}\n(`{{3,}})[^\n]*\n(.*?)^\1", conversation.text, re.M | re.S)
        )
        if not shown:
            return Reply(TITLE)
        seen = find_file_text(edit.path, shown[-1][2])
        new = apply_edit(edit, seen)
        body = new if form == "whole" else f"<<<<<<< SEARCH\n{seen}=======\n{new}>>>>>>> REPLACE\n"
        pieces.append(f"{edit.path}\n````\n{body}````\n" if "```" in seen else f"{edit.path}\n```\n{body}```\n")
    return Reply("\n".join([describe_result(conversation.text), "", *pieces]))


def use_named_tools(*, run: tuple[str, str], read: tuple[str, str], write: Callable[..., Call]) -> Toolset:
    """Return a toolset with a command tool and a reading tool of one argument each, given as name and argument."""
    return Toolset(
        run=lambda command: Call(run[0], {run[1]: command, **_EXTRA.get(run[0], {})}),
        read=lambda path: Call(read[0], {read[1]: path}),
        write=write,
    )


# Arguments that a tool requires besides the command.
_EXTRA: dict[str, Json] = {
    "bash": {"description": "Run the check"},
    "run_shell_command": {"is_background": False},
}


def replace_text(name: str, keys: Sequence[str], path: str, seen: str, new: str) -> Call:
    """Call a tool that replaces the old by the new text; `keys` name path, old and new text."""
    return Call(name, dict(zip(keys, (path, seen.rstrip("\n"), new.rstrip("\n")), strict=True)))


def write_text(name: str, keys: Sequence[str], path: str, _seen: str, new: str) -> Call:
    """Call a tool that writes a whole file; `keys` name path and text."""
    return Call(name, dict(zip(keys, (path, new), strict=True)))


def use_shell(name: str, key: str, wrap: Callable[[str], object] = str) -> Toolset:
    """Return a toolset that does everything with one shell tool."""

    def call(command: str) -> Call:
        return Call(name, {key: wrap(command)})

    return Toolset(
        run=call,
        read=lambda path: call(f"cat {path}"),
        write=lambda path, _seen, new: call(f"cat > {path} <<'END_OF_FILE'\n{new}END_OF_FILE"),
    )


def replacing(name: str, *keys: str) -> Callable[..., Call]:
    """Return a `write` that replaces text."""
    return partial(replace_text, name, keys)


def writing(name: str, *keys: str) -> Callable[..., Call]:
    """Return a `write` that writes whole files."""
    return partial(write_text, name, keys)
