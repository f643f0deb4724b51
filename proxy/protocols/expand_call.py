"""The hidden tools `clara_expand` and `clara_search`: their definitions and their calls.

With the first a model fetches original text back within the client's own request. With the second it searches what
`x-clara-remember` keeps; only requests with that header have it. They are the last ones of the client's list in every
request that offers tools, so that adding them never changes what the provider has cached. The client sees neither the
tools nor their calls. `proxy/expand` answers the calls; each protocol's adapter writes them.
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


SEARCH_TOOL_NAME = "clara_search"
HIDDEN_TOOL_NAMES = (TOOL_NAME, SEARCH_TOOL_NAME)  # a name in a reply may be of any type


class ToolDefinition(NamedTuple):
    """A hidden tool, independent of the protocol; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Json


EXPAND_TOOL = ToolDefinition(TOOL_NAME, TOOL_DESCRIPTION, TOOL_PARAMETERS)
SEARCH_TOOL = ToolDefinition(
    SEARCH_TOOL_NAME,
    "Search the tool outputs of this and earlier sessions.",
    {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
)


class ExpandCall(NamedTuple):
    """A call of a hidden tool: the provider's id of the call, the JSON text of its arguments, the name of the tool."""

    id: str
    arguments: str
    name: str = TOOL_NAME


def can_add_expand_tool(tools: object) -> bool:
    """Return True if a request offers tools and none of them has the name of a hidden tool."""
    return is_array(tools) and bool(tools) and not any(_get_tool_name(tool) in HIDDEN_TOOL_NAMES for tool in tools)


def is_another_tool_forced(tool_choice: object) -> bool:
    """Return True if the model must call a tool of the client by its name, so that it cannot call this one."""
    if not is_object(tool_choice) or tool_choice.get("type") == "allowed_tools":
        return False
    function = tool_choice.get("function")
    return bool(tool_choice.get("name") or (is_object(function) and function.get("name")))


def _get_tool_name(tool: object) -> str | None:
    if not is_object(tool):
        return None
    function = tool.get("function")
    name = function.get("name") if is_object(function) else tool.get("name")
    return name if isinstance(name, str) else None
