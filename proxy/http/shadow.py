"""Shadow checks: now and then the request is asked once more as it came, and the two answers are compared.

It happens when the client has its answer, outside of its path, with its key and at its cost, which the ledger counts in
a row of its own. Only requests that were shortened are asked again. Two answers to the very same prompt differ, too, so
what is found is a lower bound of what shortening leaves as it was.
"""

import asyncio
import difflib
import logging
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import orjson

from ..protocols import json_types, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.protocol import ProtocolAdapter, ReplyFilter
from ..stores import accounting
from ..stores.ledger_row import Row
from .exchange import Send
from .relay import Reply
from .request_context import RequestContext

MAX_RUNNING_CHECKS, MAX_PENDING_CHECKS = 2, 32  # checks that run, and that may wait; beyond that none is begun
MAX_RECORDED_BYTES = 2**22  # bytes of an answer that is compared
SendBody = Callable[[bytes], Any]  # an asynchronous context manager that yields a Reply
log = logging.getLogger(__name__)


class BodyRecorder:
    """Stands in for the `send` of one exchange and keeps a copy of the body that the client gets."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._chunks: list[bytes] = []
        self._remaining_bytes = MAX_RECORDED_BYTES

    async def __call__(self, message: Any) -> None:
        """Send one message of the response."""
        if (piece := message.get("body")) and self._remaining_bytes >= 0:
            self._remaining_bytes -= len(piece)
            self._chunks.append(piece)
            if self._remaining_bytes < 0:
                self._chunks.clear()
        await self._send(message)

    @property
    def body(self) -> bytes | None:
        """Return what the client got; None if it was too long to be kept."""
        return b"".join(self._chunks) if self._remaining_bytes >= 0 else None


class ReplyContent(NamedTuple):
    """What an answer says: its text, and its calls of tools, each with its arguments as canonical JSON."""

    text: str
    calls: list[tuple[str, str]]


class ShadowChecks:
    """Asks some requests again, a few at a time, and writes what that showed."""

    def __init__(self, rate: float, write_row: Callable[[Row], None]) -> None:
        self._rate, self._write_row = rate, write_row
        self._running: set[asyncio.Task[None]] = set()
        self._semaphore = asyncio.Semaphore(MAX_RUNNING_CHECKS)

    def should_check(self) -> bool:
        """Say whether this request is one to be asked again, if it is shortened."""
        return self._rate > 0 and random.random() < self._rate and len(self._running) < MAX_PENDING_CHECKS  # noqa: S311

    def start_check(
        self,
        context: RequestContext,
        adapter: ProtocolAdapter,
        original_body: bytes,
        recorder: BodyRecorder,
        send_body: SendBody,
    ) -> None:
        """Ask again what came in, as soon as there is room for it; returns at once."""
        before = read_reply(adapter, recorder.body) if context.saved_tokens > 0 and context.outcome == "ok" else None
        if before is not None:
            task = asyncio.create_task(
                self._run_check(context, adapter, _disable_storage(original_body), extract_content(before), send_body)
            )
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def close(self) -> None:
        """Give up what is still being asked."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _run_check(
        self,
        context: RequestContext,
        adapter: ProtocolAdapter,
        original_body: bytes,
        original_content: ReplyContent,
        send_body: SendBody,
    ) -> None:
        shadow = RequestContext(
            context.path,
            context.options,
            protocol=context.protocol,
            model=context.model,
            is_streamed=context.is_streamed,
        )
        shadow.alias_of, shadow.received_tokens, shadow.is_estimated = (
            context.alias_of,
            context.received_tokens,
            context.is_estimated,
        )
        found: dict[str, float] = {}
        async with self._semaphore:
            shadow.outcome = "cancelled"
            try:
                async with send_body(original_body) as reply:
                    found = await _compare_reply(adapter, original_content, reply, shadow)
            except ApiError as error:
                shadow.status, shadow.outcome = error.status, "failed"
            except Exception as error:  # noqa: BLE001 - nobody waits for this answer
                shadow.outcome = "failed"
                log.warning("a shadow check failed: %s", type(error).__name__)
            finally:  # what was asked may be billed, whatever became of it
                self._write_row(accounting.mark_as_shadow(shadow.build_row(), context.id, found))


async def _compare_reply(
    adapter: ProtocolAdapter, original_content: ReplyContent, reply: Reply, shadow_context: RequestContext
) -> dict[str, float]:
    shadow_context.status = reply.status
    after = read_reply(adapter, await reply.read())
    shadow_context.outcome = "upstream_error" if reply.status >= 400 or after is None else "ok"
    if after is None or shadow_context.outcome != "ok":
        return {}
    shadow_context.usage = after.usage
    # Of two long texts of few words it takes seconds.
    return await asyncio.to_thread(compare_contents, original_content, extract_content(after))


def read_reply(adapter: ProtocolAdapter, body: bytes | None) -> ReplyFilter | None:
    """Read an answer, whole or streamed; None where it is none, or has not come to its end."""
    if not body:
        return None
    listener, answer = adapter.create_reply_filter(), json_types.parse_object(body)
    if answer is not None:
        listener.filter_reply(answer)
    else:
        events = sse.EventSplitter()
        for event in [*events.feed(body), *events.flush()]:
            listener.filter_event(event)
    return listener if listener.is_complete else None


def extract_content(reply_filter: ReplyFilter) -> ReplyContent:
    """Return what was heard, in no protocol's words."""
    texts: list[str] = []
    calls: list[tuple[str, str]] = []
    for element in reply_filter.list_visible_elements():
        _collect_content(element, texts, calls)
    return ReplyContent("\n".join(texts), calls)


def compare_contents(one: ReplyContent, other: ReplyContent) -> dict[str, float]:
    """Compare two answers: 1 or 0 for the same `tools` and the same `arguments`, from 0 to 1 how alike the `text` is.

    Where neither calls a tool, or neither says a word, there is nothing to be said of that.
    """
    found: dict[str, float] = {}
    if one.calls or other.calls:
        found["tools"] = float([name for name, _ in one.calls] == [name for name, _ in other.calls])
        found["arguments"] = float(one.calls == other.calls)
    if one.text.strip() or other.text.strip():
        found["text"] = difflib.SequenceMatcher(
            None, _split_words(one.text), _split_words(other.text), autojunk=False
        ).ratio()
    return found


def _split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())[:2000]


def _collect_content(element: Json, texts: list[str], calls: list[tuple[str, str]]) -> None:
    """Gather what one element of a conversation says, in any protocol's words."""
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
    return [one for one in value if is_object(one)] if is_array(value) else []


def _normalize_call(name: object, arguments: object) -> tuple[str, str]:
    given = json_types.parse_object(arguments.encode("utf-8", "replace")) if isinstance(arguments, str) else arguments
    try:
        written = orjson.dumps(given if given is not None else arguments, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # nested more deeply than can be written, though it could be read
        written = str(arguments)
    return str(name), written


def _disable_storage(plain: bytes) -> bytes:
    """Return the body as it is to be asked again: a provider that keeps answers shall not keep this one."""
    body = json_types.parse_object(plain) or {}
    return orjson.dumps({**body, "store": False}) if body.get("store") is True else plain
