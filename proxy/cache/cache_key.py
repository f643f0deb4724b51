"""Decides which requests the response cache serves, and computes their keys. Pure.

A key is the hash of everything that decides the answer: path, parameters, headers of the provider and options of the
proxy. Two requests with one key get the same answer.
"""

from hashlib import sha256
from typing import NamedTuple

import orjson

from ..protocols.json_types import Json, is_array, is_object

# Labels that do not reach the model.
_LABELS = frozenset({"metadata", "user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
# Tools, live sources, state at the provider, and answers that a client must fetch or refer to again.
_UNCACHED_FIELDS = (
    *("tools", "functions", "web_search_options", "plugins", "mcp_servers", "background", "store", "container"),
    *("previous_response_id", "conversation", "prompt", "audio", "best_of"),
)
_INSTRUCTION_ROLES = frozenset({"system", "developer"})
_REMOTE_FIELDS = frozenset({"url", "image_url", "file_url"})
_TEXT_TYPES = frozenset({"text", "input_text"})


class CacheKey(NamedTuple):
    """The key of a request: `name` of its own, `bucket` of all requests that differ only in the `question`.

    Without a question, only the exact kind of cache serves the request.
    """

    name: str
    bucket: str
    question: str | None


def build_key(protocol: str, body: Json, settings: tuple[object, ...]) -> CacheKey | None:
    """Return the key of a request, or None if its answer is never cached.

    Args:
        protocol: name of the protocol adapter.
        body: the parsed request body.
        settings: what else decides the answer, as JSON values.

    Raises:
        TypeError: the body has a value that JSON in its canonical form cannot carry.
    """
    if any(body.get(name) for name in _UNCACHED_FIELDS) or body.get("n") not in (None, 1):
        return None
    if protocol == "responses" and body.get("store") is not False:  # stored unless the client says otherwise
        return None
    if _has_remote_media(body.get("messages") or body.get("input")):
        return None
    plain = {name: value for name, value in body.items() if name not in _LABELS}
    name = _hash(protocol, settings, plain)
    question = _find_question(body)
    if question is None:
        return CacheKey(name, "", None)
    return CacheKey(name, _hash(protocol, settings, _remove_question(plain)), question)


def _hash(protocol: str, settings: tuple[object, ...], body: Json) -> str:
    return sha256(orjson.dumps([protocol, settings, body], option=orjson.OPT_SORT_KEYS)).hexdigest()


def _has_remote_media(value: object) -> bool:
    """Return True if a conversation refers to media by URL, which may change."""
    if is_array(value):
        return any(map(_has_remote_media, value))
    if not is_object(value):
        return False
    is_remote = any(str(value.get(name, ""))[:4].lower() == "http" for name in _REMOTE_FIELDS & value.keys())
    return is_remote or any(map(_has_remote_media, value.values()))


def _find_question(body: Json) -> str | None:
    """Return the text of the only user message; None for any other conversation."""
    messages = body.get("messages") or body.get("input")
    if isinstance(messages, str):
        return messages
    if not is_array(messages) or not messages or not all(map(is_object, messages)):
        return None
    others = [message for message in messages[:-1] if message.get("role") not in _INSTRUCTION_ROLES]
    content = messages[-1].get("content")
    if others or messages[-1].get("role") != "user":
        return None
    if is_array(content) and len(content) == 1 and is_object(content[0]) and content[0].get("type") in _TEXT_TYPES:
        content = content[0].get("text")
    return content if isinstance(content, str) else None


def _remove_question(body: Json) -> Json:
    """Return a body without the text that `_find_question` returns."""
    field = "messages" if body.get("messages") else "input"
    if isinstance(body[field], str):
        return {**body, field: None}
    *others, last = body[field]
    content = last["content"]
    content = None if isinstance(content, str) else [{**content[0], "text": None}]
    return {**body, field: [*others, {**last, "content": content}]}
