"""Recorded requests, shortened as the proxy would do it and sent nowhere: what would have been saved.

It goes the way of a proxied request up to the upstream, the offered tool included, and makes the row that the ledger
would hold, without a bill. A recording that ends with the model's own words is a conversation: it stands for the
requests that it was made of, one for each of the model's turns. The invariant: what is made of a request are these
settings' services, as a proxy that runs opens them, and nothing that it writes lasts.
"""

import tempfile
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import orjson

from ...compression.tokens import get_token_counter
from ...config.settings import Settings
from ..clara import clara_routes, latent_chat
from ..expand.handler import ExpandHandler
from ..expand.tool import create_expand_tool
from ..http import request_options
from ..http.exchange import Exchange, Message
from ..http.request_context import RequestContext
from ..pipeline.rewrite import BodyRewriter
from ..protocols import chat, messages, responses
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import ProtocolAdapter
from ..runtime import services
from ..runtime.services import Services
from ..stores.ledger_row import Row

ANTHROPIC_BLOCK_TYPES = frozenset({"tool_result", "tool_use", "thinking"})  # of Anthropic's messages alone
PROTOCOL_ENDPOINTS: Mapping[str, tuple[str, ProtocolAdapter]] = {
    "chat": ("/v1/chat/completions", chat.ADAPTER),
    "responses": ("/v1/responses", responses.ADAPTER),
    "messages": ("/v1/messages", messages.ADAPTER),
}
# Nobody fetches what was left out. It expires at once, so that a month of traffic does not fill the store of a day.
_TEMPORARY_STORES = {
    "ledger_url": None,
    "originals_url": None,
    "originals_key": (),
    "originals_ttl": 60,
    "keep_content": "none",
}
_NO_OBSERVERS = {"otel": False, "log_format": "text", "shadow_rate": 0.0, "ledger_days": None}


class RecordedRequest(NamedTuple):
    """One request as it was made: its protocol, its body, and the labels of its recording."""

    protocol: str
    body: Json
    session: str = ""
    project: str = ""


def split_recording(recording: Json, model: str) -> Iterator[RecordedRequest]:
    """Yield the requests that a recording stands for.

    A recording is a request's body, a line of a batch file (`url`, `body`), or a conversation (`messages`, perhaps with
    `tools`, `id` and `agent`); `model` is said of one that names none.

    Raises:
        ValueError: it is none of these.
    """
    body = recording.get("body")
    labels = (str(recording.get("id") or recording.get("custom_id") or ""), str(recording.get("agent") or ""))
    found = body if is_object(body) else recording
    protocol = _detect_protocol(found, str(recording.get("url", "")))
    if protocol is None:
        raise ValueError("it has neither `messages` nor `input`")
    known = {name: value for name, value in found.items() if name not in ("id", "agent")}
    for part in _split_turns({"model": model, **known}, PROTOCOL_ENDPOINTS[protocol][1].elements_key):
        yield RecordedRequest(protocol, part, *labels)


class DryRunResult(NamedTuple):
    """What became of a request: its row, the name that prices its model, and why the proxy would refuse it, or ""."""

    row: Row
    priced_as: str
    rejection: str = ""


class DryRun:
    """The services of a proxy, and requests to them that nobody sent."""

    def __init__(self, held: Services) -> None:
        self._services = held
        self._default_options = request_options.build_default_options(held.settings)
        self._rewriters = {
            name: BodyRewriter(held.settings, held.conversation_compressor, held.auto_mode, wire)
            for name, (_, wire) in PROTOCOL_ENDPOINTS.items()
        }

    async def run_request(self, recorded: RecordedRequest) -> DryRunResult:
        """Shorten one request, or answer it where the local CLaRa would; sizes in tokens, no bill."""
        path, wire = PROTOCOL_ENDPOINTS[recorded.protocol]
        asked = self._default_options
        asked = replace(asked, session=recorded.session or asked.session, project=recorded.project or asked.project)
        visit = RequestContext(path, asked, protocol=wire.name, model=str(recorded.body["model"])[:200], status=200)
        visit.alias_of = self._services.providers.get_litellm_name(visit.model)
        try:
            await self._process(visit, wire, recorded)
        except ApiError as error:
            visit.record_error(error)
            visit.status = error.status
            visit.saved_tokens, visit.passages = 0, ()
            return DryRunResult(visit.build_row(), visit.pricing_model, error.message)
        return DryRunResult(visit.build_row(), visit.pricing_model)

    async def _process(self, visit: RequestContext, wire: ProtocolAdapter, recorded: RecordedRequest) -> None:
        body = recorded.body
        if latent_chat.is_answered_by_clara(visit, wire, self._services.clara):
            nobody = Exchange({}, _unexpected_receive, _discard_message)
            await latent_chat.answer_chat(
                nobody, visit, body, clara_routes.get_local_clara(self._services), self._services.settings.clara_timeout
            )
            return
        shelf = ExpandHandler(self._services.originals, "", get_token_counter(visit.pricing_model))
        offer = create_expand_tool(wire, body, shelf) if visit.options.retrieve in ("auto", "tool") else None
        await self._rewriters[recorded.protocol].rewrite_body(visit, orjson.dumps(body), body, "", offer)


@asynccontextmanager
async def open_dry_run(chosen: Settings) -> AsyncGenerator[DryRun]:
    """Open what a proxy with these settings is made of, in a folder that is gone afterwards.

    Raises:
        StartError: the settings ask for what cannot be had, such as a mode of CLaRa's where there is none.
    """
    with tempfile.TemporaryDirectory() as folder:
        alone = chosen.model_copy(update={"data_dir": Path(folder), **_TEMPORARY_STORES, **_NO_OBSERVERS})
        async with services.open_services(alone) as held:
            yield DryRun(held)


async def _unexpected_receive() -> Message:
    raise AssertionError("the request has been read")


async def _discard_message(_: Message) -> None:
    """Send nothing: nobody asked."""


def _split_turns(body: Json, elements: str) -> Iterator[Json]:
    """Yield the body, or where it ends with the model's own words, what came before each of the model's turns."""
    listed = body.get(elements)
    if not is_array(listed) or not listed or not _is_from_model(listed[-1]):
        yield body
        return
    for index, element in enumerate(listed):
        if index and _is_from_model(element) and not _is_from_model(listed[index - 1]):
            yield {**body, elements: listed[:index]}


def _is_from_model(element: object) -> bool:
    """Say whether an element of a conversation is the model's."""
    said = is_object(element) and (element.get("role") == "assistant" or element.get("type") == "function_call")
    return bool(said) or (is_object(element) and element.get("type") == "reasoning")


def _detect_protocol(body: Json, url: str) -> str | None:
    for name, (path, _) in PROTOCOL_ENDPOINTS.items():
        if url.endswith(path):
            return name
    if is_array(body.get("messages")):
        return "messages" if "system" in body or _has_anthropic_blocks(body["messages"]) else "chat"
    return "responses" if "input" in body else None


def _has_anthropic_blocks(listed: list[object]) -> bool:
    contents = (one.get("content") for one in listed if is_object(one))
    blocks = (block for content in contents if is_array(content) for block in content if is_object(block))
    return any(block.get("type") in ANTHROPIC_BLOCK_TYPES for block in blocks)
