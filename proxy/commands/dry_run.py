"""Processes recorded requests as the proxy would, without sending them, and returns their ledger rows.

A dry run includes everything up to the upstream, the hidden tool among it; the rows have no bill. A recording that ends
with a message of the model is a conversation, and yields one request per turn of the model. Invariant: a dry run uses
the services that a running proxy with these settings would open, and leaves no data behind.
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
from ..clara import latent_chat
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
from ..runtime.services import Services, open_services
from ..stores.ledger_row import Row

ANTHROPIC_BLOCK_TYPES = frozenset({"tool_result", "tool_use", "thinking"})  # only in Anthropic's Messages API
PROTOCOL_ENDPOINTS: Mapping[str, tuple[str, ProtocolAdapter]] = {
    "chat": ("/v1/chat/completions", chat.ADAPTER),
    "responses": ("/v1/responses", responses.ADAPTER),
    "messages": ("/v1/messages", messages.ADAPTER),
}
# No client fetches text back, so originals expire quickly; otherwise a month of traffic would fill the store.
_TEMPORARY_STORES = {
    "ledger_url": None,
    "originals_url": None,
    "originals_key": (),
    "originals_ttl": 60,
    "keep_content": "none",
}
_NO_OBSERVERS = {"otel": False, "log_format": "text", "shadow_rate": 0.0, "ledger_days": None}


class RecordedRequest(NamedTuple):
    """A request: its protocol, body, and the labels of its recording."""

    protocol: str
    body: Json
    session: str = ""
    project: str = ""


def split_recording(recording: Json, model: str) -> Iterator[RecordedRequest]:
    """Yield the requests of a recording.

    A recording is the body of a request, a line of a batch file (`url`, `body`), or a conversation (`messages`, and
    optionally `tools`, `id` and `agent`). `model` is the default for bodies without a model.

    Raises:
        ValueError: the recording has an unknown format.
    """
    body = recording.get("body")
    labels = (str(recording.get("id") or recording.get("custom_id") or ""), str(recording.get("agent") or ""))
    request = body if is_object(body) else recording
    protocol = _detect_protocol(request, str(recording.get("url", "")))
    if protocol is None:
        raise ValueError("neither `messages` nor `input` found")
    fields = {name: value for name, value in request.items() if name not in ("id", "agent")}
    for turn in _split_turns({"model": model, **fields}, PROTOCOL_ENDPOINTS[protocol][1].elements_key):
        yield RecordedRequest(protocol, turn, *labels)


class DryRunResult(NamedTuple):
    """The result of a request: its ledger row, the model that prices it, and the rejection message or ""."""

    row: Row
    priced_as: str
    rejection: str = ""


class DryRun:
    """Processes recorded requests with the services of a proxy."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._default_options = request_options.build_default_options(services.settings)
        self._rewriters = {
            name: BodyRewriter(services.settings, services.conversation_compressor, services.auto_mode, adapter)
            for name, (_, adapter) in PROTOCOL_ENDPOINTS.items()
        }

    async def run_request(self, recorded: RecordedRequest) -> DryRunResult:
        """Compress one request, or answer it if the local CLaRa would; the row has no bill."""
        path, adapter = PROTOCOL_ENDPOINTS[recorded.protocol]
        defaults = self._default_options
        labelled = replace(
            defaults, session=recorded.session or defaults.session, project=recorded.project or defaults.project
        )
        model = str(recorded.body["model"])[:200]
        context = RequestContext(path, labelled, protocol=adapter.name, model=model, status=200)
        context.alias_of = self._services.providers.get_litellm_name(context.model)
        try:
            await self._process(context, adapter, recorded)
        except ApiError as error:
            context.record_error(error)
            context.status = error.status
            context.saved_tokens, context.passages = 0, ()
            return DryRunResult(context.build_row(), context.pricing_model, error.message)
        return DryRunResult(context.build_row(), context.pricing_model)

    async def _process(self, context: RequestContext, adapter: ProtocolAdapter, recorded: RecordedRequest) -> None:
        body = recorded.body
        if latent_chat.is_answered_by_clara(context, adapter, self._services.clara):
            exchange = Exchange({}, _unexpected_receive, _discard_message)
            await latent_chat.answer_chat(exchange, context, body, self._services)
            return
        handler = ExpandHandler(self._services.originals, "", get_token_counter(context.pricing_model))
        tool = create_expand_tool(adapter, body, handler) if context.options.retrieve in ("auto", "tool") else None
        await self._rewriters[recorded.protocol].rewrite_body(context, orjson.dumps(body), body, "", tool)


@asynccontextmanager
async def open_dry_run(settings: Settings) -> AsyncGenerator[DryRun]:
    """Open a dry run with the services of these settings, in a temporary folder.

    Raises:
        StartupError: a service cannot be opened, for example because the mode needs a CLaRa model.
    """
    with tempfile.TemporaryDirectory() as folder:
        isolated = settings.model_copy(update={"data_dir": Path(folder), **_TEMPORARY_STORES, **_NO_OBSERVERS})
        async with open_services(isolated) as services:
            yield DryRun(services)


async def _unexpected_receive() -> Message:
    raise AssertionError("the body has been read already")


async def _discard_message(_: Message) -> None:
    """Discard a message, because the request has no client."""


def _split_turns(body: Json, elements_key: str) -> Iterator[Json]:
    """Yield the body; of one that ends with a message of the model, a body per turn of the model."""
    conversation = body.get(elements_key)
    if not is_array(conversation) or not conversation or not _is_from_model(conversation[-1]):
        yield body
        return
    for index, element in enumerate(conversation):
        if index and _is_from_model(element) and not _is_from_model(conversation[index - 1]):
            yield {**body, elements_key: conversation[:index]}


def _is_from_model(element: object) -> bool:
    """Return True if the model wrote an element of a conversation."""
    return is_object(element) and (
        element.get("role") == "assistant" or element.get("type") in ("function_call", "reasoning")
    )


def _detect_protocol(body: Json, url: str) -> str | None:
    for name, (path, _) in PROTOCOL_ENDPOINTS.items():
        if url.endswith(path):
            return name
    if is_array(body.get("messages")):
        return "messages" if "system" in body or _has_anthropic_blocks(body["messages"]) else "chat"
    return "responses" if "input" in body else None


def _has_anthropic_blocks(elements: list[object]) -> bool:
    contents = (element.get("content") for element in elements if is_object(element))
    blocks = (block for content in contents if is_array(content) for block in content if is_object(block))
    return any(block.get("type") in ANTHROPIC_BLOCK_TYPES for block in blocks)
