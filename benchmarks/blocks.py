"""A chat in OpenAI's form as Anthropic's Messages API takes it, marked to be cached as agents mark it.

For recorded conversations of text and tool calls; nothing else is translated. The marks stand at the end of the system
prompt and at the end of the last message, so that they move on as the conversation grows.
"""

from typing import Any

from ..proxy.protocols.json_types import Json, parse_object

_CACHE_MARK = {"cache_control": {"type": "ephemeral"}}


def convert_body(body: Json) -> Json:
    """Return the body of a chat completion as one of the Messages API."""
    listed: list[Json] = []
    system: list[Json] = []
    for message in body["messages"]:
        role, blocks = _convert_message(message)
        if role == "system":
            system += blocks
        elif listed and listed[-1]["role"] == role:
            listed[-1]["content"] += blocks
        else:
            listed.append({"role": role, "content": blocks})
    for blocks in (system, listed[-1]["content"]):
        blocks[-1:] = [block | _CACHE_MARK for block in blocks[-1:]]
    tools = [_convert_tool(tool["function"]) for tool in body["tools"]]
    return {"model": body["model"], "max_tokens": 4096, "system": system, "tools": tools, "messages": listed}


def convert_reply(message: Json) -> Json:
    """Return a model's message as the Messages API tells it."""
    return {"role": "assistant", "content": _convert_message(message)[1]}


def _convert_tool(function: Json) -> Json:
    parameters = function.get("parameters") or {"type": "object"}
    return {"name": function["name"], "description": function.get("description", ""), "input_schema": parameters}


def _convert_message(message: Json) -> tuple[str, list[Json]]:
    content: list[Json] = [{"type": "text", "text": text} for text in _list_texts(message.get("content"))]
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
    return (
        [content] if isinstance(content, str) and content else [part["text"] for part in content or () if part["text"]]
    )


def _parse_arguments(function: Json) -> Json:
    return parse_object(function["arguments"].encode()) or {"text": function["arguments"]}
