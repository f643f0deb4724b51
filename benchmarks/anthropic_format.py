"""Convert OpenAI chat completions to Anthropic's Messages API, with the cache breakpoints that agents set.

Covers text and tool calls, the only content of the recorded conversations. The breakpoints are at the end of the system
prompt and at the end of the last message, so they move as the conversation grows.
"""

from typing import Any

from ..proxy.protocols.json_types import Json, parse_object

_BREAKPOINT = {"cache_control": {"type": "ephemeral"}}


def convert_body(body: Json) -> Json:
    """Return a Messages API body for a chat completion's body."""
    converted: list[Json] = []
    system: list[Json] = []
    for message in body["messages"]:
        role, blocks = _convert_message(message)
        if role == "system":
            system += blocks
        elif converted and converted[-1]["role"] == role:
            converted[-1]["content"] += blocks
        else:
            converted.append({"role": role, "content": blocks})
    for blocks in (system, converted[-1]["content"]):
        blocks[-1:] = [block | _BREAKPOINT for block in blocks[-1:]]
    tools = [_convert_tool(tool["function"]) for tool in body["tools"]]
    return {"model": body["model"], "max_tokens": 4096, "system": system, "tools": tools, "messages": converted}


def convert_reply(message: Json) -> Json:
    """Return an assistant message in the Messages API's format."""
    return {"role": "assistant", "content": _convert_message(message)[1]}


def _convert_tool(function: Json) -> Json:
    parameters = function.get("parameters") or {"type": "object"}
    return {"name": function["name"], "description": function.get("description", ""), "input_schema": parameters}


def _convert_message(message: Json) -> tuple[str, list[Json]]:
    content: list[Json] = [{"type": "text", "text": text} for text in _list_texts(message.get("content"))]
    if compaction := message.get("compaction"):
        content.insert(0, compaction)
    if message["role"] == "tool":
        return "user", [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}]
    content += [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": _parse_arguments(call["function"]),
        }
        for call in message.get("tool_calls") or ()
    ]
    return message["role"], content or [{"type": "text", "text": "..."}]


def _list_texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content] if content else []
    return [part["text"] for part in content or () if part["text"]]


def _parse_arguments(function: Json) -> Json:
    return parse_object(function["arguments"].encode()) or {"text": function["arguments"]}
