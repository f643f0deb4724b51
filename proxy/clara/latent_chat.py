"""Chat completions that CLaRa answers itself: everything but the live instruction becomes memory tokens.

No text goes anywhere: earlier turns, tool outputs and documents are compressed, and the same model reads the memories.
What cannot be had this way (tools, several choices, log probabilities, JSON modes) is refused by name.
"""

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import perf_counter
from typing import NamedTuple

import orjson

from ...compression import documents
from ...compression.clara.async_engine import ClaraAnswer, LocalClara
from ...compression.transcript import Turn
from ..http.exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, Exchange
from ..http.request_context import RequestContext
from ..protocols import chat, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_object
from ..protocols.protocol import ProtocolAdapter
from .clara_routes import map_clara_errors

MODEL_NAME = "clara"
UNSUPPORTED_FIELDS = ("logprobs", "response_format", "functions", "function_call", "audio", "prediction")

# Tags and fences whose text became a memory.
_EMPTY_WRAPPER = re.compile(r"<([A-Za-z][\w.-]{0,40})(?:\s[^<>]{0,200})?>\s*</\1>|```[\w-]{0,40}\s*```")


class LatentRequest(NamedTuple):
    """A chat as CLaRa reads it."""

    documents: list[str]
    question: str
    max_new_tokens: int


def list_model_names(subfolder: str | None) -> list[str]:
    """List the model names of the local CLaRa: `clara`, and with its rate, `clara-16`."""
    rate = (subfolder or "compression-16").rpartition("-")[2]
    return [MODEL_NAME, f"{MODEL_NAME}-{rate}"]


def is_clara_model(model: str) -> bool:
    """Say whether a model's name is CLaRa's, at whatever rate."""
    return model == MODEL_NAME or (model.startswith(f"{MODEL_NAME}-") and model[len(MODEL_NAME) + 1 :].isdigit())


def is_answered_by_clara(visit: RequestContext, wire: ProtocolAdapter, clara: LocalClara | None) -> bool:
    """Say whether CLaRa answers a request itself: it is asked for by its name, or by the mode where there is one."""
    wanted = visit.options.mode == "latent" and not visit.options.bypass and clara is not None
    return wire is chat.ADAPTER and (wanted or is_clara_model(visit.model))


def parse_chat(body: Json) -> LatentRequest:
    """Take a chat apart into background and live instruction.

    Raises:
        ApiError: 400 for a chat without a question, or one that asks for what CLaRa does not do.
    """
    listed = chat.parse_messages(body)
    if not listed:
        raise ApiError(400, "messages must be a list of messages", param="messages")
    for name in UNSUPPORTED_FIELDS:
        if body.get(name):
            message = f"{name} cannot be had from the local CLaRa model"
            raise ApiError(400, message, param=name, code="unsupported_field")
    if body.get("n") not in (None, 1) or body.get("tool_choice") not in (None, "auto", "none"):
        raise ApiError(400, "the local CLaRa model gives one answer, in words", code="unsupported_field")
    turns = chat.build_turns(listed)
    live = next((index for index in reversed(range(len(turns))) if turns[index].role == "user"), None)
    if live is None:
        raise ApiError(400, "there is no user message to answer", param="messages")
    material, question = _split_live_message(turns[live])
    background = [text for index, turn in enumerate(turns) if index != live for text in _background_texts(turn)]
    return LatentRequest(background + material, question, _parse_max_tokens(body))


def _split_live_message(turn: Turn) -> tuple[list[str], str]:
    """Part the live message into the documents in it and the instruction around them."""
    material: list[str] = []
    words: list[str] = []
    for slot in turn.slots:
        at = 0
        for found in documents.find_material(slot.text, include_prose=True):
            words.append(slot.text[at : found.start])
            material.append(slot.text[found.start : found.end])
            at = found.end
        words.append(slot.text[at:])
    question = _EMPTY_WRAPPER.sub("", "\n".join(word.strip() for word in words if word.strip())).strip()
    return ([text for text in material if text.strip()], question) if question else ([], "\n".join(material))


def _background_texts(turn: Turn) -> list[str]:
    spoken = {"user": "User: ", "assistant": "Assistant: "}.get(turn.role, "")
    return [spoken + slot.text for slot in turn.slots if slot.text.strip()]


def _parse_max_tokens(body: Json) -> int:
    most = body.get("max_completion_tokens") or body.get("max_tokens") or 128
    if not isinstance(most, int) or not 1 <= most <= 4096:
        raise ApiError(400, "max_completion_tokens must be from 1 to 4096", param="max_completion_tokens")
    return most


async def answer_chat(exchange: Exchange, visit: RequestContext, body: Json, clara: LocalClara, seconds: float) -> None:
    """Answer a chat completion from memory tokens, streamed or not."""
    asked = parse_chat(body)
    visit.mode, visit.engine, visit.outcome = "latent", clara.name, "served"
    common = {"id": visit.id.replace("req_", "chatcmpl-"), "created": int(visit.timestamp), "model": visit.model}
    with map_clara_errors():
        if body.get("stream") is True:
            pieces = clara.stream(*asked, seconds)
            await _stream_answer(exchange, visit, common, pieces, wants_usage=_wants_usage(body))
            return
        done = await clara.answer(*asked, seconds)
    _record_usage(visit, done)
    message = {"role": "assistant", "content": done.text}
    choice = {"index": 0, "message": message, "finish_reason": done.finish, "logprobs": None}
    whole = {**common, "object": "chat.completion", "choices": [choice], "usage": build_usage(done)}
    visit.status = 200
    await exchange.send_response(200, JSON_HEADERS + visit.build_response_headers(), orjson.dumps(whole))


async def _stream_answer(
    exchange: Exchange,
    visit: RequestContext,
    common: Json,
    pieces: AsyncGenerator[str | ClaraAnswer],
    *,
    wants_usage: bool,
) -> None:
    async with aclosing(pieces):
        piece = await anext(pieces)  # what goes wrong before the first word is answered with its status
        visit.status = 200
        await exchange.start_response(200, EVENT_STREAM_HEADERS + visit.build_response_headers())
        await exchange.write_chunk(_format_chunk(common, {"role": "assistant", "content": ""}))
        while isinstance(piece, str):
            if piece:
                await exchange.write_chunk(_format_chunk(common, {"content": piece}))
            piece = await anext(pieces)
    _record_usage(visit, piece)
    await exchange.write_chunk(_format_chunk(common, {}, piece.finish))
    if wants_usage:
        closing: Json = {**common, "object": "chat.completion.chunk", "choices": [], "usage": build_usage(piece)}
        await exchange.write_chunk(sse.encode_event(orjson.dumps(closing)))
    await exchange.end_response(sse.encode_event(b"[DONE]"))


def _format_chunk(common: Json, delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse.encode_event(orjson.dumps({**common, "object": "chat.completion.chunk", "choices": [choice]}))


def build_usage(done: ClaraAnswer) -> Json:
    """Return the positions that the decoder saw, and the text that its memory tokens stand for."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"memory_tokens": done.memory_tokens, "text_tokens": done.text_tokens},
    }


def _wants_usage(body: Json) -> bool:
    options = body.get("stream_options")
    return is_object(options) and options.get("include_usage") is True


def _record_usage(visit: RequestContext, done: ClaraAnswer) -> None:
    """Count positions: text that memory tokens stand for was received, and only they were read."""
    visit.received_tokens = done.prompt_tokens - done.memory_tokens + done.text_tokens
    visit.saved_tokens = done.text_tokens - done.memory_tokens
    visit.usage = build_usage(done)
    visit.model_cost = done.usage
    visit.compressor_seconds = perf_counter() - visit.start_time
