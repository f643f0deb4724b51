"""The tool `clara_expand`: how a model has back what was left out, within the client's own request.

The tool is offered beside the client's own tools, last, from the first turn on, so that offering it never changes what
the provider has cached. The client never sees it. What it brought is remembered under a landmark of the conversation
and woven in again later, so that the prompt stays the one the provider knows. Knows no protocol: a `Wire` does.
"""

from collections.abc import Sequence
from typing import NamedTuple

from .json_types import Json, is_array, is_object

TOOL_NAME = "clara_expand"
TOOL_DESCRIPTION = f"Returns the text that was left out where it says [...; {TOOL_NAME} ID]."
TOOL_PARAMETERS: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "query": {"type": "string", "description": "only the lines about this"},
        "lines": {"type": "string", "description": "only these lines, as 10-20"},
    },
    "required": ["id"],
}


class ExpandCall(NamedTuple):
    """A call of the tool: the provider's id of the call, and the JSON text of its arguments."""

    id: str
    arguments: str


def can_add_expand_tool(tools: object) -> bool:
    """Say whether tools are on offer, and none of them has our name already."""
    return is_array(tools) and bool(tools) and not any(_get_tool_name(tool) == TOOL_NAME for tool in tools)


def _get_tool_name(tool: object) -> object:
    if not is_object(tool):
        return None
    function = tool.get("function")
    return function.get("name") if is_object(function) else tool.get("name")


def sum_usages(usages: Sequence[Json]) -> Json | None:
    """Add usages up, field by field; of what is no number the last word holds."""
    summed: Json = {}
    for usage in usages:
        for name, value in usage.items():
            summed[name] = _add_values(summed.get(name), value)
    return summed or None


def _add_values(one: object, other: object) -> object:
    if is_object(other):
        return sum_usages([one if is_object(one) else {}, other]) or {}
    if isinstance(one, bool) or isinstance(other, bool):
        return other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one + other
    return one if other is None else other
