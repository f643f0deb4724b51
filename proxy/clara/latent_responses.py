"""Requests of the Responses API that CLaRa answers itself, such as those with the tool `file_search`.

The items become a chat (`latent_chat`), and the answer one message. Nothing is stored, so a reply cannot be continued
by its id.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import perf_counter

import orjson

from ...compression.clara.jobs import ClaraAnswer
from ..http.exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, Exchange
from ..http.request_context import RequestContext
from ..protocols import reply_events, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_array, is_object
from ..runtime.services import Services
from . import latent_chat
from .local_clara import get_local_clara, map_clara_errors, parse_rate

_UNSUPPORTED_FIELDS = ("previous_response_id", "conversation", "background", "prompt", "top_logprobs")
_TEXT_TYPES = frozenset({"input_text", "output_text"})
_HEAD_EVENTS = 4  # before the first piece of the text


def build_chat(body: Json) -> Json:
    """Return a Responses request as the body of a chat completion.

    Raises:
        ApiError: 400 for a field or an item that CLaRa does not support.
    """
    for name in _UNSUPPORTED_FIELDS:
        if body.get(name):
            message = f"the local CLaRa model does not support {name}"
            raise ApiError(400, message, param=name, code="unsupported_field")
    if body.get("tools"):
        message = "the local CLaRa model calls no tools; of tools, only file_search with stores of this proxy works"
        raise ApiError(400, message, param="tools", code="unsupported_field")
    text = body.get("text")
    output_format = text.get("format") if is_object(text) else None
    if is_object(output_format) and output_format.get("type") not in (None, "text"):
        raise ApiError(400, "the local CLaRa model writes text only", param="text.format", code="unsupported_field")
    items = body.get("input")
    instructions = body.get("instructions")
    messages: list[Json] = [{"role": "system", "content": instructions}] if isinstance(instructions, str) else []
    messages += [_build_message(item) for item in items] if is_array(items) else [{"role": "user", "content": items}]
    return {"messages": messages, "max_tokens": body.get("max_output_tokens")}


def _build_message(item: object) -> Json:
    if not is_object(item) or item.get("type") not in (None, "message"):
        kind = item.get("type") if is_object(item) else type(item).__name__
        message = f"the local CLaRa model reads messages only; remove the item {kind}"
        raise ApiError(400, message, param="input", code="unsupported_field")
    content = item.get("content")
    if is_array(content):
        texts = [part.get("text") for part in content if is_object(part) and part.get("type") in _TEXT_TYPES]
        content = [{"type": "text", "text": text} for text in texts if isinstance(text, str)]
    return {"role": item.get("role"), "content": content}


async def answer_response(
    exchange: Exchange, context: RequestContext, body: Json, services: Services, memories: Sequence[str] = ()
) -> None:
    """Answer a Responses request, streamed or not; `memories` are documents beside those of the request.

    Raises:
        ApiError: 404 for a compression rate that the model does not have, 503 without a model; see also `build_chat`.
    """
    with map_clara_errors():
        clara = get_local_clara(services).select_rate(parse_rate(context.model))
    chat_body = build_chat(body)
    request = latent_chat.parse_chat(chat_body)
    request = request._replace(documents=[*request.documents, *memories])
    context.mode, context.engine, context.outcome = "latent", clara.name, "served"
    await latent_chat.count_received_tokens(context, chat_body, services.conversation_compressor)
    seconds = services.settings.clara_timeout
    with map_clara_errors():
        if body.get("stream") is True:
            await _stream_answer(exchange, context, body, latent_chat.stream_pieces(context, clara, request, seconds))
            return
        answer = await latent_chat.extract_missing(context, request, await clara.answer(*request, seconds))
    latent_chat.record_usage(context, answer)
    context.status = 200
    reply = _build_reply(context, body, answer.text, answer)
    await exchange.send_response(200, JSON_HEADERS + context.build_response_headers(), orjson.dumps(reply))


async def _stream_answer(
    exchange: Exchange, context: RequestContext, body: Json, pieces: AsyncGenerator[str | ClaraAnswer]
) -> None:
    head = reply_events.split_response(_build_reply(context, body, ""))[:_HEAD_EVENTS]
    place: Json = {"output_index": 0, "item_id": _build_item_id(context), "content_index": 0, "logprobs": []}
    text, number = "", len(head)
    async with aclosing(pieces):
        piece = await anext(pieces)  # an error before the first piece still gets its own status
        context.status, context.compressor_seconds = 200, perf_counter() - context.start_time
        await exchange.start_response(200, EVENT_STREAM_HEADERS + context.build_response_headers())
        await exchange.write_chunk(b"".join(map(_encode_event, head)))
        while isinstance(piece, str):
            if piece:
                delta: Json = {"type": "response.output_text.delta", **place, "delta": piece, "sequence_number": number}
                await exchange.write_chunk(_encode_event(delta))
                text, number = text + piece, number + 1
            piece = await anext(pieces)
    latent_chat.record_usage(context, piece)
    tail = reply_events.split_response(_build_reply(context, body, text, piece))[_HEAD_EVENTS + 1 :]
    numbered = [{**event, "sequence_number": number + index} for index, event in enumerate(tail)]
    await exchange.end_response(b"".join(map(_encode_event, numbered)))


def _build_reply(context: RequestContext, body: Json, text: str, answer: ClaraAnswer | None = None) -> Json:
    """Return the reply; without an `answer`, its usage is unknown yet."""
    is_cut = answer is not None and answer.finish == "length"
    part: Json = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    status = "incomplete" if is_cut else "completed"
    message = {"type": "message", "id": _build_item_id(context), "role": "assistant", "status": status}
    usage = None if answer is None else latent_chat.build_usage(answer)
    return {
        "id": context.id.replace("req_", "resp_"),
        "object": "response",
        "created_at": int(context.timestamp),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "model": context.model,
        "output": [{**message, "content": [part]}],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage
        and {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0, **usage["prompt_tokens_details"]},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        },
    }


def _build_item_id(context: RequestContext) -> str:
    return context.id.replace("req_", "msg_")


def _encode_event(event: Json) -> bytes:
    return sse.encode_event(orjson.dumps(event), name=str(event["type"]))
