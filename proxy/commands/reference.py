"""The command `clara-proxy reference`: all commands as Markdown (docs/cli.md), or as a manual page in roff."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.cli import get_docs_for_click
from typer.core import TyperGroup

NAME = "clara-proxy"
EXIT_STATUS = {
    "0": "success",
    "1": "a check failed, a file was not ingested, the thing to show does not exist, or the proxy cannot listen",
    "2": "an option, a setting or a file is invalid, or `update-check` gets no answer; the message says so",
    "130": "`ingest`: interrupted; the next run continues",
    "127": "`wrap`: the command does not exist",
    "128 + N": "`wrap`: signal N ended the command",
}


def reference(
    context: typer.Context,
    man: Annotated[bool, typer.Option("--man", help="Print a manual page instead of Markdown.")] = False,
) -> None:
    """Print the reference of all commands: Markdown, or a manual page."""
    root: Any = context.find_root()  # of click, or of the copy of click that newer versions of typer contain
    root.info_name = NAME
    group = root.command
    assert isinstance(group, TyperGroup)
    typer.echo("\n".join(_render_man(group, root)) if man else _render_markdown(group, root), nl=man)


def _render_markdown(group: TyperGroup, context: Any) -> str:
    rows = "\n".join(f"| {status} | {meaning} |" for status, meaning in EXIT_STATUS.items())
    exits = f"## Exit status\n\n| status | meaning |\n| --- | --- |\n{rows}\n"
    text = get_docs_for_click(obj=group, ctx=context, name=NAME, title="Command line")
    note = "Printed by `clara-proxy reference`, which prints a manual page with `--man`.\n\n"
    head, usage, rest = text.partition("**Usage**")
    return f"{head}{note}{usage}{rest.rstrip()}\n\n{exits}"


def _render_man(group: TyperGroup, context: Any) -> Iterator[str]:
    yield f'.TH {NAME.upper()} 1 "" "{NAME} {version(NAME)}"'
    yield f".SH NAME\n{NAME} \\- {_escape(group.help or '')}"
    yield f".SH SYNOPSIS\n.B {NAME}\n[OPTIONS] COMMAND [ARGS]..."
    yield ".SH COMMANDS"
    yield from _render_commands(group, context, NAME)
    yield ".SH EXIT STATUS"
    for status, meaning in EXIT_STATUS.items():
        yield f".TP\n.B {status}\n{_escape(meaning)}"


def _render_commands(group: TyperGroup, context: Any, prefix: str) -> Iterator[str]:
    for name, command in group.commands.items():
        path = f"{prefix} {name}"
        if command.hidden:
            continue
        if isinstance(command, TyperGroup):
            yield from _render_commands(command, context, path)
            continue
        yield f".SS {path}\n{_escape(command.help or '')}"
        for parameter in command.get_params(typer.Context(command, info_name=name, parent=context)):
            label, text = parameter.get_help_record(context) or ("", "")
            if label and label != "--help":
                yield f".TP\n.B {_escape(label)}\n{_escape(text)}"


def _escape(text: str) -> str:
    """Return a text without requests and escapes of roff."""
    return "\n".join(f"\\&{line}".replace("-", "\\-") for line in text.replace("\\", "\\e").split("\n"))
