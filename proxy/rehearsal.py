"""Recorded requests, shortened as the proxy would do it and sent nowhere: what would have been saved.

It goes the way of a proxied request up to the upstream, the offered tool included, and makes the row that the ledger
would hold, without a bill. A recording that ends with the model's own words is a conversation: it stands for the
requests that it was made of, one for each of the model's turns.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import orjson

from ..compression.tokens import vocabulary
from ..config.settings import Settings
from . import steering
from .condense import UNCHANGED
from .offer import Offer
from .oneshot import Nowhere, condenser
from .stores.accounting import Row
from .visit import Visit
from .wires import chat, messages, responses
from .wires.expansion import Shelf
from .wires.shapes import Json, is_array, is_object
from .wires.wire import Wire

BLOCKS = frozenset({"tool_result", "tool_use", "thinking"})  # of Anthropic's messages alone
PATHS: Mapping[str, tuple[str, Wire]] = {
    "chat": ("/v1/chat/completions", chat.WIRE),
    "responses": ("/v1/responses", responses.WIRE),
    "messages": ("/v1/messages", messages.WIRE),
}


class Recorded(NamedTuple):
    """One request as it was made: its protocol, its body, and the labels of its recording."""

    protocol: str
    body: Json
    session: str = ""
    project: str = ""


def requests(recording: Json, model: str) -> Iterator[Recorded]:
    """Yield the requests that a recording stands for.

    A recording is a request's body, a line of a batch file (`url`, `body`), or a conversation (`messages`, perhaps with
    `tools`, `id` and `agent`); `model` is said of one that names none.

    Raises:
        ValueError: it is none of these.
    """
    body = recording.get("body")
    labels = (str(recording.get("id") or recording.get("custom_id") or ""), str(recording.get("agent") or ""))
    found = body if is_object(body) else recording
    protocol = _protocol(found, str(recording.get("url", "")))
    if protocol is None:
        raise ValueError("it has neither `messages` nor `input`")
    known = {name: value for name, value in found.items() if name not in ("id", "agent")}
    for part in _parts({"model": model, **known}, PATHS[protocol][1].elements):
        yield Recorded(protocol, part, *labels)


async def rehearse(recorded: Recorded, chosen: Settings) -> Row:
    """Shorten one request and return its row; sizes in tokens, no bill.

    Raises:
        ApiError: the settings ask for a mode that is not to be had without a model.
    """
    path, wire = PATHS[recorded.protocol]
    asked = steering.defaults(chosen)
    asked = replace(asked, mode=asked.mode if asked.mode in UNCHANGED else "extract")
    asked = replace(asked, session=recorded.session or asked.session, project=recorded.project or asked.project)
    visit = Visit(path, asked, protocol=wire.name, model=str(recorded.body["model"])[:200], status=200)
    plain = orjson.dumps(recorded.body)
    tool = wire.offer(recorded.body) if asked.retrieve in ("auto", "tool") else None
    shelf = Shelf(_nowhere(), "", vocabulary(visit.model))
    offer = None if tool is None else Offer(wire, recorded.body, tool, shelf)
    await condenser(chosen, wire).condense(visit, plain, recorded.body, "", offer)
    return visit.row()


@lru_cache(maxsize=1)
def _nowhere() -> Nowhere:
    return Nowhere()


def _parts(body: Json, elements: str) -> Iterator[Json]:
    """Yield the body, or where it ends with the model's own words, what came before each of the model's turns."""
    listed = body.get(elements)
    if not is_array(listed) or not listed or not _models(listed[-1]):
        yield body
        return
    for index, element in enumerate(listed):
        if index and _models(element) and not _models(listed[index - 1]):
            yield {**body, elements: listed[:index]}


def _models(element: object) -> bool:
    """Say whether an element of a conversation is the model's."""
    said = is_object(element) and (element.get("role") == "assistant" or element.get("type") == "function_call")
    return bool(said) or (is_object(element) and element.get("type") == "reasoning")


def _protocol(body: Json, url: str) -> str | None:
    for name, (path, _) in PATHS.items():
        if url.endswith(path):
            return name
    if is_array(body.get("messages")):
        return "messages" if "system" in body or _blocks(body["messages"]) else "chat"
    return "responses" if "input" in body else None


def _blocks(listed: list[object]) -> bool:
    contents = (one.get("content") for one in listed if is_object(one))
    blocks = (block for content in contents if is_array(content) for block in content if is_object(block))
    return any(block.get("type") in BLOCKS for block in blocks)
