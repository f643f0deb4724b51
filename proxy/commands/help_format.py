"""The format of `--help`: flags have no type, other types have plain names, and arguments are in capitals."""

from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_TYPE_NAMES = {
    "<str>": "<text>",
    "<float>": "<number>",
    "<float range>": "<number>",
    "<int range>": "<int>",
    "<list[Path]>": "<path>...",
}


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _format_parameters(super().get_params(ctx), ctx)

    def get_short_help_str(self, limit: int = 0) -> str:  # noqa: ARG002 - shown whole
        return _get_first_sentence(self.help)


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _format_parameters(super().get_params(ctx), ctx)

    def get_short_help_str(self, limit: int = 0) -> str:  # noqa: ARG002 - shown whole
        return _get_first_sentence(self.help)


def simplify_help(app: typer.Typer) -> None:
    """Apply the format to all commands of an application. Call it after they are registered."""
    app.info.cls = _Group
    for command in app.registered_commands:
        command.cls = _Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            simplify_help(group.typer_instance)


def _format_parameters(parameters: list[Any], context: Any) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
        elif parameter.param_type_name == "argument" and parameter.metavar is None:
            parameter.metavar = parameter.name.upper()
        if (display_type := getattr(parameter, "display_type", None)) is not None:  # newer versions of typer
            label = str(display_type(context))
            parameter.display_type = partial(_get_name, _TYPE_NAMES.get(label, label))
    return parameters


def _get_name(name: str, _context: Any) -> str:
    return name


def _get_first_sentence(text: str | None) -> str:
    sentence, _, _ = (text or "").partition("\n")[0].partition(". ")
    return f"{sentence.rstrip('.')}."
