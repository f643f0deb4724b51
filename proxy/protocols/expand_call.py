"""The hidden tool `clara_expand`: its definition and its calls.

With this tool a model fetches original text back within the client's own request. The tool is the last one of the
client's list in every request that offers tools, so that adding it never changes what the provider has cached. The
client sees neither the tool nor its calls. `proxy/expand` answers the calls; each protocol's adapter writes them.
"""

from typing import NamedTuple

from .json_types import Json, is_array, is_object

TOOL_NAME = "clara_expand"
TOOL_DESCRIPTION = f"Text left out at [...; {TOOL_NAME} ID]."
TOOL_PARAMETERS: Json = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "query": {"type": "string"},
        "lines": {"type": "string", "description": "10-20"},
    },
    "required": ["id"],
}


class ExpandCall(NamedTuple):
    """A call of the tool: the provider's id of the call, and the JSON text of its arguments."""

    id: str
    arguments: str


def can_add_expand_tool(tools: object) -> bool:
    """Return True if a request offers tools and none of them is called `clara_expand`."""
    return is_array(tools) and bool(tools) and not any(_get_tool_name(tool) == TOOL_NAME for tool in tools)


def is_another_tool_forced(tool_choice: object) -> bool:
    """Return True if the model must call a tool of the client by its name, so that it cannot call this one."""
    if not is_object(tool_choice) or tool_choice.get("type") == "allowed_tools":
        return False
    function = tool_choice.get("function")
    return bool(tool_choice.get("name") or (is_object(function) and function.get("name")))


def _get_tool_name(tool: object) -> object:
    if not is_object(tool):
        return None
    function = tool.get("function")
    return function.get("name") if is_object(function) else tool.get("name")
