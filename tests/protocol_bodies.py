"""Converts a chat request into the bodies of the other protocols, so that one test can run on all of them."""

from typing import Any

import orjson

Json = dict[str, Any]


def as_chat(conversation: Json) -> Json:
    """Return a chat request unchanged."""
    return conversation


def as_responses(conversation: Json) -> Json:
    """Return a conversation as a request body of the Responses API."""
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
    """Return a conversation as a request body of Anthropic's Messages API."""
    messages: list[Json] = []
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
            head = {"type": "tool_use", "id": call["id"], "name": call["function"]["name"]}
            blocks.append({**head, "input": _parse_arguments(call["function"]["arguments"])})
        role = "assistant" if message["role"] == "assistant" else "user"
        if messages and messages[-1]["role"] == role and role == "user":
            messages[-1]["content"] += blocks
        else:
            messages.append({"role": role, "content": blocks})
    tools = [
        {"name": tool["function"]["name"], "input_schema": tool["function"].get("parameters", {})}
        for tool in conversation.get("tools") or ()
    ]
    fields = {"system": "\n".join(system), "messages": messages, "tools": tools}
    return {"model": conversation["model"], "max_tokens": 9, **fields}


def _without_function_messages(conversation: Json) -> list[Json]:
    """Return the messages without the deprecated function calls, which the other protocols do not have."""
    messages: list[Json] = conversation["messages"]
    return [message for message in messages if message["role"] != "function" and "function_call" not in message]


def _content_texts(content: Any) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content or () if isinstance(part.get("text"), str)]


def _parse_arguments(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return {"text": text}
