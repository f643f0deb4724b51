"""`POST /v1/compress`: compresses messages for gateways that send requests to the provider themselves.

It implements the contract of the `headroom` integrations of LiteLLM and other gateways, with the pipeline of chat
completions. The response has the messages of the request in the same order, and frozen messages are unchanged.
Each original in `ccr_hashes` can be fetched with the same key at `/v1/retrieve/{hash}`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field, ValidationError

from ..access import authentication
from ..http import json_body, request_options
from ..http.request_context import RequestContext
from ..http.request_options import RequestOptions
from ..pipeline.frozen_messages import FrozenMessages
from ..pipeline.rewrite import BodyRewriter
from ..protocols import offload, request_json
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json
from ..runtime.services import Services, get_services
from ..stores.originals import NAME_LENGTH

COMPRESS_PATH = "/v1/compress"
BYPASS_HEADER = "x-headroom-bypass"
INLINE_MODES = frozenset({"lossy_inline", "lossless_then_lossy"})  # the contract's modes without hashes in markers
_ERROR_CODE = "invalid_request"
_HASH_PATTERN = re.compile(f"(?<![0-9a-f])[0-9a-f]{{{NAME_LENGTH}}}(?![0-9a-f])")

ContractMode = Literal["ccr", "lossy_inline", "lossless_then_lossy"]
ProxyMode = Literal["off", "observe", "auto", "extract", "answer", "summary", "prune"]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
PositiveInt = Annotated[int, Field(strict=True, ge=1)]


class CompressConfig(BaseModel):
    """The `config` object of a request; unknown fields are ignored.

    A `target_ratio` up to 1 is the share of tokens to keep, as in the contract; above 1 it is the compression ratio.
    The first `frozen_message_count` and the last `protect_recent` messages are returned unchanged.
    """

    mode: Literal[ContractMode, ProxyMode] | None = None
    session_id: str | None = Field(default=None, min_length=1, max_length=256, pattern=r"\S")
    frozen_message_count: NonNegativeInt = 0
    protect_recent: NonNegativeInt = 0
    compress_user_messages: bool | None = None
    target_ratio: float | None = Field(default=None, gt=0, le=1000)
    query: str | None = Field(default=None, min_length=1)
    min_tokens: PositiveInt | None = None
    budget: PositiveInt | None = None
    deadline_ms: PositiveInt | None = None

    def apply_to(self, options: RequestOptions) -> RequestOptions:
        """Return the options of the headers, overridden by this config; markers have hashes by default."""
        is_inline = self.mode in INLINE_MODES or options.retrieve == "none"
        changes: dict[str, Any] = {"retrieve": "none" if is_inline else "url"}
        if self.mode is not None and self.mode != "ccr" and self.mode not in INLINE_MODES:
            changes["mode"] = self.mode
        elif options.mode == "latent":  # that mode answers requests instead of compressing them
            changes["mode"] = "auto"
        if self.compress_user_messages is not None:
            roles = options.roles - {"user"}
            changes["roles"] = roles | {"user"} if self.compress_user_messages else roles
        if self.target_ratio is not None:
            changes["ratio"] = 1 / self.target_ratio if self.target_ratio <= 1 else self.target_ratio
        if self.deadline_ms is not None:
            changes["deadline"] = self.deadline_ms / 1000
        fields = {"session": self.session_id, "query": self.query, "min_tokens": self.min_tokens, "budget": self.budget}
        changes |= {name: value for name, value in fields.items() if value is not None}
        return replace(options, **changes)


@dataclass(frozen=True, slots=True)
class CompressRequest:
    """A request: its body as bytes and as parsed JSON, and its validated config."""

    raw_body: bytes
    body: Json
    config: CompressConfig


router = APIRouter(tags=["sidecar"])


@router.post(COMPRESS_PATH)
async def compress(request: Request) -> Response:
    """Compress the long passages of a chat's messages, and return the messages with token counts."""
    services = get_services(request)
    options = authentication.get_default_options(
        request.scope, request_options.build_default_options(services.settings)
    )
    context = RequestContext(COMPRESS_PATH, options, protocol="compress", outcome="served")
    with context.record_in_ledger(services.ledger):
        parsed = await _read_request(request, services, context)
        await authentication.reserve_local(request.scope, context, len(parsed.raw_body))
        try:
            with json_body.cancel_on_disconnect(request):
                content = await _compress_messages(
                    context, parsed, services, authentication.get_owner_id(request.scope)
                )
        except RecursionError:
            context.saved_tokens, context.passages = 0, ()
            raise _invalid_request("the messages are nested too deeply", "messages") from None
        context.status = 200
    response = Response(content, media_type="application/json")
    response.raw_headers.extend(context.build_response_headers())
    return response


async def _read_request(request: Request, services: Services, context: RequestContext) -> CompressRequest:
    context.options = request_options.parse_headers(request.headers, context.options)
    raw = await json_body.read_body(request, services.settings.max_body_bytes, services.bodies)
    body = await offload.run_for(len(raw or b""), request_json.parse_request, raw)
    if raw is None or body is None:
        raise _invalid_request("the body must be a JSON object", None)
    if not isinstance(model := body.get("model"), str) or not model:
        raise _invalid_request("model is required and must be a string", "model")
    context.model, context.alias_of = model[:200], services.providers.get_litellm_name(model)
    config = _parse_config(body.get("config"))
    options = config.apply_to(context.options)
    bypass = options.bypass or request.headers.get(BYPASS_HEADER, "").lower() == "true"
    context.options = replace(options, bypass=bypass)
    return CompressRequest(raw, body, config)


def _parse_config(value: object) -> CompressConfig:
    try:
        return CompressConfig.model_validate({} if value is None else value)
    except ValidationError as error:
        raise json_body.build_validation_error(error, prefix=("config",), code=_ERROR_CODE) from None


async def _compress_messages(
    context: RequestContext, parsed: CompressRequest, services: Services, owner_id: str
) -> bytes:
    adapter = FrozenMessages(parsed.body, parsed.config.frozen_message_count, parsed.config.protect_recent)
    if adapter.read_conversation(parsed.body) is None:
        raise _invalid_request("messages must be a list of messages, each with a role", "messages")
    rewriter = BodyRewriter(services.settings, services.conversation_compressor, services.auto_mode, adapter)
    rewritten = await rewriter.rewrite_body(context, parsed.raw_body, parsed.body, owner_id)
    context.overhead_seconds = perf_counter() - context.start_time
    if context.is_late and not context.is_too_long and parsed.config.session_id is not None:
        context.saved_tokens, context.passages = 0, ()
        message = "compression exceeded its deadline; a retry returns the late passages unchanged"
        raise ApiError(503, message, code="compression_timeout", headers={"retry-after": "1"})
    return await offload.run_for(len(parsed.raw_body), _serialize_response, context, parsed, rewritten)


def _serialize_response(context: RequestContext, parsed: CompressRequest, rewritten: bytes) -> bytes:
    # Not orjson: it would turn integers beyond 64 bits into floating-point numbers.
    messages = json.loads(rewritten)["messages"]
    hashes = _find_new_hashes(parsed.body["messages"], messages)
    return json.dumps(_build_response(context, messages, hashes)).encode()


def _build_response(context: RequestContext, messages: Sequence[Json], hashes: Sequence[str]) -> Json:
    tokens_after = context.received_tokens - context.saved_tokens
    skips = ", ".join(context.skip_counts) or "nothing-to-leave-out"
    skip_reason = "compression_timeout" if "late" in context.skip_counts else skips
    transforms = dict.fromkeys(f"{context.mode}:{passage.kind}" for passage in context.passages if not passage.reason)
    return {
        "messages": messages,
        "tokens_before": context.received_tokens,
        "tokens_after": tokens_after,
        "tokens_saved": context.saved_tokens,
        "compression_ratio": tokens_after / context.received_tokens if context.received_tokens else 1.0,
        "transforms_applied": list(transforms) if context.saved_tokens else [],
        "ccr_hashes": hashes,
        "compression_skipped": not context.saved_tokens,
        "skip_reason": None if context.saved_tokens else skip_reason,
        "would_save": context.potential_saved_tokens,
    }


def _find_new_hashes(messages_before: Sequence[Json], messages_after: Sequence[Json]) -> list[str]:
    """Return the hashes in the markers of changed messages: those that the message did not contain before."""
    hashes: dict[str, None] = {}
    for before, after in zip(messages_before, messages_after, strict=True):
        if before != after:
            old_hashes = set(_find_hashes(before))
            hashes |= dict.fromkeys(name for name in _find_hashes(after) if name not in old_hashes)
    return list(hashes)


def _find_hashes(message: Json) -> list[str]:
    return _HASH_PATTERN.findall(json.dumps(message.get("content")))


def _invalid_request(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, param=param, code=_ERROR_CODE)
