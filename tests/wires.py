"""One conversation in the words of every protocol, so that what holds for one can be held against all."""

from typing import Any

import orjson

Json = dict[str, Any]


def as_chat(conversation: Json) -> Json:
    """Return a chat completion's body as it is."""
    return conversation


def as_responses(conversation: Json) -> Json:
    """Return the same conversation as a body of the Responses API."""
    items: list[Json] = []
    for message in _without_function_messages(conversation):
        content = message.get("content")
        if message["role"] == "tool":
            items.append({"type": "function_call_output", "call_id": message["tool_call_id"], "output": content})
            continue
        if content:
            kind = "output_text" if message["role"] == "assistant" else "input_text"
            parts = (
                content
                if isinstance(content, str)
                else [{"type": kind, "text": text} for text in _content_texts(content)]
            )
            items.append({"type": "message", "role": message["role"], "content": parts})
        items += [
            {"type": "function_call", "call_id": call["id"], **call["function"]}
            for call in message.get("tool_calls") or ()
        ]
    tools = [{"type": "function", **tool["function"]} for tool in conversation.get("tools") or ()]
    return {"model": conversation["model"], "input": items, "tools": tools}


def as_messages(conversation: Json) -> Json:
    """Return the same conversation as a body of Anthropic's Messages API."""
    listed: list[Json] = []
    system: list[str] = []
    for message in _without_function_messages(conversation):
        content = message.get("content")
        if message["role"] in ("system", "developer"):
            system += _content_texts(content)
            continue
        blocks: list[Json] = [{"type": "text", "text": text} for text in _content_texts(content) if text]
        if message["role"] == "tool":
            blocks = [{"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}]
        for call in message.get("tool_calls") or ():
            named = {"id": call["id"], "name": call["function"]["name"]}
            blocks.append({"type": "tool_use", **named, "input": _parse_arguments(call["function"]["arguments"])})
        role = "assistant" if message["role"] == "assistant" else "user"
        if listed and listed[-1]["role"] == role and role == "user":
            listed[-1]["content"] += blocks
        else:
            listed.append({"role": role, "content": blocks})
    tools = [
        {"name": tool["function"]["name"], "input_schema": tool["function"].get("parameters", {})}
        for tool in conversation.get("tools") or ()
    ]
    said = {"system": "\n".join(system), "messages": listed, "tools": tools}
    return {"model": conversation["model"], "max_tokens": 9, **said}


def _without_function_messages(conversation: Json) -> list[Json]:
    """Return the messages but those of calls as chat completions had them before tools, which nobody else knows."""
    return [one for one in conversation["messages"] if one["role"] != "function" and "function_call" not in one]


def _content_texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _parse_arguments(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"text": text}
