"""Chat completions that CLaRa answers itself: everything but the live instruction becomes memory tokens.

No text leaves the machine: the model compresses earlier turns, tool outputs and documents, and then reads the memories.
Unsupported features (tools, several choices, log probabilities, JSON modes) are rejected by name.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from time import perf_counter
from typing import NamedTuple

import orjson

from ...compression import documents
from ...compression.clara import extracted_answers
from ...compression.clara.async_engine import ClaraBackend
from ...compression.clara.jobs import ClaraAnswer
from ...compression.models.model_compression import NOT_IN_MEMORY
from ...compression.tokens import get_token_counter
from ...compression.transcript import Turn
from ..http.exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, Exchange
from ..http.request_context import RequestContext
from ..pipeline.compress import ConversationCompressor
from ..protocols import chat, responses, sse
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json, is_object
from ..protocols.protocol import ProtocolAdapter
from ..runtime.services import Services
from .local_clara import MODEL_NAME, get_local_clara, map_clara_errors, parse_rate

MAX_NEW_TOKENS = 4096  # of one answer
UNSUPPORTED_FIELDS = ("logprobs", "response_format", "functions", "function_call", "audio", "prediction")

# Tags and fences that are empty because their text became a memory.
_EMPTY_WRAPPER = re.compile(r"<([A-Za-z][\w.-]{0,40})(?:\s[^<>]{0,200})?>\s*</\1>|```[\w-]{0,40}\s*```")


class LatentRequest(NamedTuple):
    """The input of CLaRa for one chat."""

    documents: list[str]
    question: str
    max_new_tokens: int


def list_model_names(clara: ClaraBackend) -> list[str]:
    """Return the model names of the local CLaRa: `clara`, and one for each compression rate, such as `clara-16`."""
    return [MODEL_NAME, *(f"{MODEL_NAME}-{rate}" for rate in clara.rates)]


def is_clara_model(model: str) -> bool:
    """Return True if a model's name is `clara`, with or without a compression rate."""
    return model == MODEL_NAME or parse_rate(model) is not None


def is_answered_by_clara(context: RequestContext, adapter: ProtocolAdapter, clara: ClaraBackend | None) -> bool:
    """Return True if CLaRa answers a request: its model is `clara`, or its mode is latent and there is a model."""
    is_latent = context.options.mode == "latent" and not context.options.bypass and clara is not None
    if adapter is responses.ADAPTER:
        return is_clara_model(context.model)
    return adapter is chat.ADAPTER and (is_latent or is_clara_model(context.model))


def build_wrong_path_error(model: str) -> ApiError:
    """Return the error for a request that names a local model on a path that only forwards."""
    message = (
        f"the model {model} is local and answers on /v1/chat/completions and /v1/responses; send the request there"
    )
    return ApiError(400, message, param="model", code="unsupported_model")


def parse_chat(body: Json) -> LatentRequest:
    """Split a chat into background documents and the live instruction.

    Raises:
        ApiError: 400 for a chat without a user message, or with a field that CLaRa does not support.
    """
    messages = chat.parse_messages(body)
    if not messages:
        raise ApiError(400, "messages must be a list of messages", param="messages")
    for name in UNSUPPORTED_FIELDS:
        if body.get(name):
            message = f"the local CLaRa model does not support {name}"
            raise ApiError(400, message, param=name, code="unsupported_field")
    if body.get("n") not in (None, 1) or body.get("tool_choice") not in (None, "auto", "none"):
        raise ApiError(400, "the local CLaRa model returns one choice and calls no tools", code="unsupported_field")
    turns = chat.build_turns(messages)
    live = next((index for index in reversed(range(len(turns))) if turns[index].role == "user"), None)
    if live is None:
        raise ApiError(400, "messages must contain a user message", param="messages")
    live_documents, question = _split_live_message(turns[live])
    background = [text for index, turn in enumerate(turns) if index != live for text in _format_background(turn)]
    return LatentRequest(background + live_documents, question, _parse_max_tokens(body))


def _split_live_message(turn: Turn) -> tuple[list[str], str]:
    """Split the live message into its documents and the instruction around them."""
    live_documents: list[str] = []
    instructions: list[str] = []
    for slot in turn.slots:
        end = 0
        for span in documents.find_material(slot.text, include_prose=True):
            instructions.append(slot.text[end : span.start])
            live_documents.append(slot.text[span.start : span.end])
            end = span.end
        instructions.append(slot.text[end:])
    question = _EMPTY_WRAPPER.sub("", "\n".join(text.strip() for text in instructions if text.strip())).strip()
    if not question:
        return [], "\n".join(live_documents)
    return [text for text in live_documents if text.strip()], question


def _format_background(turn: Turn) -> list[str]:
    prefix = {"user": "User: ", "assistant": "Assistant: "}.get(turn.role, "")
    return [prefix + slot.text for slot in turn.slots if slot.text.strip()]


def _parse_max_tokens(body: Json) -> int:
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens") or 128
    if not isinstance(max_tokens, int) or not 1 <= max_tokens <= MAX_NEW_TOKENS:
        raise ApiError(400, f"max_completion_tokens must be from 1 to {MAX_NEW_TOKENS}", param="max_completion_tokens")
    return max_tokens


async def answer_chat(
    exchange: Exchange, context: RequestContext, body: Json, services: Services, memories: Sequence[str] = ()
) -> None:
    """Answer a chat completion from memory tokens, streamed or not, within `CLARA_CLARA_TIMEOUT`.

    `memories` are documents beside those of the chat.

    Raises:
        ApiError: 404 for a compression rate that the model does not have, 503 without a model; see also `parse_chat`.
    """
    with map_clara_errors():
        clara = get_local_clara(services).select_rate(parse_rate(context.model))
    request = parse_chat(body)
    request = request._replace(documents=[*request.documents, *memories])
    seconds = services.settings.clara_timeout
    context.mode, context.engine, context.outcome = "latent", clara.name, "served"
    await count_received_tokens(context, body, services.conversation_compressor)
    common = {"id": context.id.replace("req_", "chatcmpl-"), "created": int(context.timestamp), "model": context.model}
    with map_clara_errors():
        if body.get("stream") is True:
            pieces = stream_pieces(context, clara, request, seconds)
            await _stream_answer(exchange, context, common, pieces, wants_usage=_wants_usage(body))
            return
        answer = await extract_missing(context, request, await clara.answer(*request, seconds))
    record_usage(context, answer)
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": answer.finish, "logprobs": None}
    completion = {**common, "object": "chat.completion", "choices": [choice], "usage": build_usage(answer)}
    context.status = 200
    await exchange.send_response(200, JSON_HEADERS + context.build_response_headers(), orjson.dumps(completion))


async def _stream_answer(
    exchange: Exchange,
    context: RequestContext,
    common: Json,
    pieces: AsyncGenerator[str | ClaraAnswer],
    *,
    wants_usage: bool,
) -> None:
    async with aclosing(pieces):
        piece = await anext(pieces)  # an error before the first piece still gets its own status
        context.status, context.compressor_seconds = 200, perf_counter() - context.start_time
        await exchange.start_response(200, EVENT_STREAM_HEADERS + context.build_response_headers())
        await exchange.write_chunk(_format_chunk(common, {"role": "assistant", "content": ""}))
        while isinstance(piece, str):
            if piece:
                await exchange.write_chunk(_format_chunk(common, {"content": piece}))
            piece = await anext(pieces)
    record_usage(context, piece)
    await exchange.write_chunk(_format_chunk(common, {}, piece.finish))
    if wants_usage:
        closing: Json = {**common, "object": "chat.completion.chunk", "choices": [], "usage": build_usage(piece)}
        await exchange.write_chunk(sse.encode_event(orjson.dumps(closing)))
    await exchange.end_response(sse.encode_event(b"[DONE]"))


async def stream_pieces(
    context: RequestContext, clara: ClaraBackend, request: LatentRequest, seconds: float
) -> AsyncGenerator[str | ClaraAnswer]:
    """Yield the answer's text in pieces, and the whole answer; one that is not in memory is extracted."""
    async with aclosing(clara.stream(*request, seconds)) as pieces:
        async for piece in pieces:
            if isinstance(piece, str) or not piece.not_in_memory:
                yield piece
                continue
            answer = await extract_missing(context, request, piece)
            yield answer.text
            yield answer


async def extract_missing(context: RequestContext, request: LatentRequest, answer: ClaraAnswer) -> ClaraAnswer:
    """Return an answer; if it is not in memory, with text of the documents, which the context then reports."""
    if answer.not_in_memory:
        context.engine, context.skip_counts = "extract", {NOT_IN_MEMORY: 1}
        counter = get_token_counter(context.pricing_model)
        answer = await extracted_answers.replace_missing(answer, *request, counter)
    return answer


async def count_received_tokens(context: RequestContext, body: Json, compressor: ConversationCompressor) -> None:
    """Count the tokens of the request as for any other mode, so that modes can be compared."""
    conversation = chat.ADAPTER.read_conversation(body)
    if conversation is None:
        return
    vocabulary = get_token_counter(context.pricing_model)
    counts = await compressor.count_texts(vocabulary, conversation.texts(), context.options.deadline)
    context.received_tokens = conversation.overhead_tokens + sum(counts.tokens)
    context.is_estimated = counts.is_late or not vocabulary.is_exact


def _format_chunk(common: Json, delta: Json, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return sse.encode_event(orjson.dumps({**common, "object": "chat.completion.chunk", "choices": [choice]}))


def build_usage(answer: ClaraAnswer) -> Json:
    """Return the usage object: the decoder's positions, and the text tokens that its memory tokens replace."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"memory_tokens": answer.memory_tokens, "text_tokens": answer.text_tokens},
    }


def _wants_usage(body: Json) -> bool:
    options = body.get("stream_options")
    return is_object(options) and options.get("include_usage") is True


def record_usage(context: RequestContext, answer: ClaraAnswer) -> None:
    """Record the tokens: the request counts as received, the positions that the decoder read as sent."""
    context.saved_tokens = context.received_tokens - answer.prompt_tokens
    context.usage = build_usage(answer)
    context.model_cost = answer.usage
    context.compressor_seconds = perf_counter() - context.start_time
