"""Shadow checks: some requests are sent a second time without compression, and the two replies are compared.

A check runs after the client has its reply, with the client's key and at its cost; it has a ledger row of its own. Only
compressed requests are checked. Two replies to the same prompt differ as well, so the agreement is a lower bound.
"""

import asyncio
import difflib
import logging
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from ..protocols import json_codec, json_types, sse, usage_fields
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import ProtocolAdapter, ReplyFilter
from ..stores import accounting
from ..stores.ledger_row import Row
from .exchange import Send
from .relay import Reply
from .request_context import RequestContext, Settlement

MAX_RUNNING_CHECKS, MAX_PENDING_CHECKS = 2, 32  # no check starts beyond the second limit
MAX_RECORDED_BYTES = 2**22  # longer replies are not compared
MAX_COMPARED_WORDS = 2000
SendBody = Callable[[bytes], Any]  # returns an asynchronous context manager that yields a Reply
log = logging.getLogger(__name__)


class BodyRecorder:
    """Wraps the `send` of one exchange and keeps a copy of the response body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._chunks: list[bytes] = []
        self._remaining_bytes = MAX_RECORDED_BYTES

    async def __call__(self, message: Any) -> None:
        """Send one message of the response."""
        if (chunk := message.get("body")) and self._remaining_bytes >= 0:
            self._remaining_bytes -= len(chunk)
            self._chunks.append(chunk)
            if self._remaining_bytes < 0:
                self._chunks.clear()
        await self._send(message)

    @property
    def body(self) -> bytes | None:
        """Return the response body, or None if it was too long."""
        return b"".join(self._chunks) if self._remaining_bytes >= 0 else None


class ReplyContent(NamedTuple):
    """The content of a reply: its text, and its tool calls with their arguments as canonical JSON."""

    text: str
    calls: list[tuple[str, str]]


class ShadowChecks:
    """Runs shadow checks, a few at a time, and writes their results to the ledger."""

    def __init__(self, rate: float, write_row: Callable[[Row], None]) -> None:
        self._rate, self._write_row = rate, write_row
        self._running: set[asyncio.Task[None]] = set()
        self._semaphore = asyncio.Semaphore(MAX_RUNNING_CHECKS)

    def should_check(self) -> bool:
        """Return True if this request is sampled for a check."""
        return self._rate > 0 and random.random() < self._rate and len(self._running) < MAX_PENDING_CHECKS  # noqa: S311

    def start_check(
        self,
        context: RequestContext,
        adapter: ProtocolAdapter,
        original_body: bytes,
        recorder: BodyRecorder,
        send_body: SendBody,
        settlement: Settlement | None = None,
    ) -> None:
        """Start a check of a compressed request in the background. It ends the reservation `settlement`."""
        is_compressed = context.saved_tokens > 0 and context.outcome == "ok"
        reply_filter = read_reply(adapter, recorder.body) if is_compressed else None
        if reply_filter is None:
            if settlement is not None:
                settlement.close()
            return
        shadow_context = RequestContext(
            context.path,
            context.options,
            protocol=context.protocol,
            model=context.model,
            alias_of=context.alias_of,
            is_streamed=context.is_streamed,
            received_tokens=context.received_tokens,
            is_estimated=context.is_estimated,
            region=context.region,
            settlement=settlement,
        )
        check = self._run_check(
            shadow_context,
            context.id,
            adapter,
            _disable_storage(original_body),
            extract_content(reply_filter),
            send_body,
        )
        task = asyncio.create_task(check)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Cancel the running checks."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run_check(
        self,
        shadow_context: RequestContext,
        compared_id: str,
        adapter: ProtocolAdapter,
        original_body: bytes,
        content: ReplyContent,
        send_body: SendBody,
    ) -> None:
        agreement: dict[str, float] = {}
        async with self._semaphore:
            shadow_context.outcome = "cancelled"
            try:
                async with send_body(original_body) as reply:
                    agreement = await _compare_reply(adapter, content, reply, shadow_context)
            except ApiError as error:
                shadow_context.status, shadow_context.outcome = error.status, "failed"
            except Exception as error:  # noqa: BLE001 - no client waits for this reply
                shadow_context.outcome = "failed"
                log.warning("a shadow check failed: %s", type(error).__name__)
            finally:  # the provider may bill the request in any case
                row = accounting.mark_as_shadow(shadow_context.build_row(), compared_id, agreement)
                self._write_row(row)
                shadow_context.settle(row)


async def _compare_reply(
    adapter: ProtocolAdapter, content: ReplyContent, reply: Reply, shadow_context: RequestContext
) -> dict[str, float]:
    shadow_context.status = reply.status
    body = await reply.read()
    reply_filter = read_reply(adapter, body)
    shadow_context.outcome = "upstream_error" if reply.status >= 400 or reply_filter is None else "ok"
    if reply_filter is None or shadow_context.outcome != "ok":
        return {}
    shadow_context.usage, shadow_context.reply_facts = reply_filter.usage, usage_fields.read_body_facts(body)
    # Comparing two long texts with few distinct words takes seconds.
    return await asyncio.to_thread(compare_contents, content, extract_content(reply_filter))


def read_reply(adapter: ProtocolAdapter, body: bytes | None) -> ReplyFilter | None:
    """Read a whole or streamed reply. Return None if it is incomplete or not a reply."""
    if not body:
        return None
    reply_filter, message = adapter.create_reply_filter(), json_types.parse_object(body)
    if message is not None:
        reply_filter.filter_reply(message)
    else:
        events = sse.EventSplitter()
        for event in [*events.feed(body), *events.flush()]:
            reply_filter.filter_event(event)
    return reply_filter if reply_filter.is_complete else None


def extract_content(reply_filter: ReplyFilter) -> ReplyContent:
    """Return the content of a reply, independent of its protocol."""
    texts: list[str] = []
    calls: list[tuple[str, str]] = []
    for element in reply_filter.list_visible_elements():
        _collect_content(element, texts, calls)
    return ReplyContent("\n".join(texts), calls)


def compare_contents(first: ReplyContent, second: ReplyContent) -> dict[str, float]:
    """Return the agreement of two replies.

    `tools` and `arguments` are 1 for equal ones and 0 otherwise; `text` is a similarity from 0 to 1. If neither reply
    has tool calls, or text, the fields for it are missing.
    """
    agreement: dict[str, float] = {}
    if first.calls or second.calls:
        agreement["tools"] = float([name for name, _ in first.calls] == [name for name, _ in second.calls])
        agreement["arguments"] = float(first.calls == second.calls)
    if first.text.strip() or second.text.strip():
        words = _split_words(first.text), _split_words(second.text)
        agreement["text"] = difflib.SequenceMatcher(None, *words, autojunk=False).ratio()
    return agreement


def _split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())[:MAX_COMPARED_WORDS]


def _collect_content(element: Json, texts: list[str], calls: list[tuple[str, str]]) -> None:
    """Add the texts and calls of one message or item of any protocol."""
    if element.get("type") == "function_call":
        calls.append(_normalize_call(element.get("name"), element.get("arguments")))
    for call in _list_objects(element.get("tool_calls")):
        function = call.get("function")
        if is_object(function):
            calls.append(_normalize_call(function.get("name"), function.get("arguments")))
    content = element.get("content")
    if isinstance(content, str):
        texts.append(content)
    for part in _list_objects(content):
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        if part.get("type") == "tool_use":
            calls.append(_normalize_call(part.get("name"), part.get("input")))


def _list_objects(value: object) -> Sequence[Json]:
    return [item for item in value if is_object(item)] if is_array(value) else []


def _normalize_call(name: object, arguments: object) -> tuple[str, str]:
    value = arguments
    if isinstance(arguments, str):
        parsed = json_types.parse_object(arguments.encode("utf-8", "backslashreplace"))
        value = arguments if parsed is None else parsed
    try:
        written = orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # orjson cannot write all that it reads, such as deep nesting
        written = str(arguments)
    return str(name), written


def _disable_storage(original_body: bytes) -> bytes:
    """Return the body with `store` off: a provider that stores replies must not store this one."""
    body = json_types.parse_object_exactly(original_body) or {}
    if body.get("store") is not True:
        return original_body
    return json_codec.dumps(json_codec.merge(body, {"store": False}))
