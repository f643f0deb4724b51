"""`POST /v1/compress`: messages in, shorter messages out, for gateways that ask the provider themselves.

It speaks the contract that the `headroom` integrations of LiteLLM and other gateways speak, and is no second pipeline:
the condenser of chat completions does the work, and every answer is a row in the ledger. The invariant: as many
messages come back as came, in their order, the frozen ones as they were, and what `ccr_hashes` names can be fetched
with the same key at `/v1/retrieve/{hash}`.
"""

import asyncio
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
from ..http import request_options
from ..http.exchange import Exchange, decode_body
from ..http.request_context import RequestContext
from ..http.request_options import RequestOptions
from ..pipeline.frozen_messages import FrozenMessages
from ..pipeline.rewrite import BodyRewriter
from ..protocols import json_codec, json_types
from ..protocols.api_errors import ApiError
from ..protocols.json_types import Json
from ..runtime.services import Services, get_services
from ..stores.originals import NAME_LENGTH

COMPRESS_PATH = "/v1/compress"
BYPASS_HEADER = "x-headroom-bypass"
INLINE_MODES = frozenset(
    {"lossy_inline", "lossless_then_lossy"}
)  # the contract's names for "no way back in the markers"
_HASH_PATTERN = re.compile(f"(?<![0-9a-f])[0-9a-f]{{{NAME_LENGTH}}}(?![0-9a-f])")

ContractMode = Literal["ccr", "lossy_inline", "lossless_then_lossy"]
ProxyMode = Literal["off", "observe", "auto", "extract", "answer", "summary"]
NonNegativeInt = Annotated[int, Field(strict=True, ge=0)]
PositiveInt = Annotated[int, Field(strict=True, ge=1)]


class CompressConfig(BaseModel):
    """What a request may say of how it wants its messages shortened; a field that is not known is ignored.

    `target_ratio` up to 1 is the share to keep, as the contract has it; above 1 it is how many times smaller.
    `frozen_message_count` messages at the beginning and `protect_recent` at the end come back as they are.
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

    def apply_to(self, asked: RequestOptions) -> RequestOptions:
        """Put these wishes over those of the headers. Who speaks the contract can fetch, unless it says otherwise."""
        changes: dict[str, Any] = {
            "retrieve": "none" if self.mode in INLINE_MODES or asked.retrieve == "none" else "url"
        }
        if self.mode is not None and self.mode != "ccr" and self.mode not in INLINE_MODES:
            changes["mode"] = self.mode
        elif asked.mode == "latent":  # that mode answers requests, and here there is none to answer
            changes["mode"] = "auto"
        if self.compress_user_messages is not None:
            others = asked.roles - {"user"}
            changes["roles"] = others | {"user"} if self.compress_user_messages else others
        if self.target_ratio is not None:
            changes["ratio"] = 1 / self.target_ratio if self.target_ratio <= 1 else self.target_ratio
        if self.deadline_ms is not None:
            changes["deadline"] = self.deadline_ms / 1000
        said = {"session": self.session_id, "query": self.query, "min_tokens": self.min_tokens, "budget": self.budget}
        changes |= {name: value for name, value in said.items() if value is not None}
        return replace(asked, **changes)


@dataclass(frozen=True, slots=True)
class CompressRequest:
    """One request, read: its body as bytes and parsed, and how it wants its messages shortened."""

    raw_body: bytes
    body: Json
    config: CompressConfig


router = APIRouter(tags=["sidecar"])


@router.post(COMPRESS_PATH)
async def compress(request: Request) -> Response:
    """Return the messages of a chat with their long passages shortened, and say what that saved."""
    held = get_services(request)
    default = authentication.get_default_options(request.scope, request_options.build_default_options(held.settings))
    visit = RequestContext(COMPRESS_PATH, default, protocol="compress", outcome="served")
    with visit.record_in_ledger(held.ledger):
        asked = await _read_request(request, held, visit)
        try:
            answer = await _compress_messages(visit, asked, held, authentication.get_owner_id(request.scope))
        except RecursionError:
            visit.saved_tokens, visit.passages = 0, ()
            raise _invalid_request("the messages are nested too deeply", "messages") from None
        visit.status = 200
    response = Response(answer, media_type="application/json")
    response.raw_headers.extend(visit.build_response_headers())
    return response


async def _read_request(request: Request, held: Services, visit: RequestContext) -> CompressRequest:
    headers = request.headers
    visit.options = request_options.parse_headers(headers, visit.options)
    limit = held.settings.max_body_mb * 2**20
    raw = await Exchange(request.scope, request.receive, _unused_send).read_body(limit)
    plain = decode_body(raw, headers.get("content-encoding", ""), limit)
    body = json_types.parse_object(plain)
    if plain is None or body is None:
        raise _invalid_request("the body must be a JSON object", None)
    if not isinstance(model := body.get("model"), str) or not model:
        raise _invalid_request("the name of the model is missing", "model")
    visit.model, visit.alias_of = model[:200], held.providers.get_litellm_name(model)
    config = _parse_config(body.get("config"))
    asked = config.apply_to(visit.options)
    bypass = asked.bypass or headers.get(BYPASS_HEADER, "").lower() == "true"
    visit.options = replace(asked, bypass=bypass)
    return CompressRequest(plain, body, config)


def _parse_config(said: object) -> CompressConfig:
    try:
        return CompressConfig.model_validate({} if said is None else said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("config", *first["loc"])))
        raise _invalid_request(f"{where}: {first['msg']}", where) from None


async def _compress_messages(visit: RequestContext, asked: CompressRequest, held: Services, its_owner: str) -> bytes:
    wire = FrozenMessages(asked.body, asked.config.frozen_message_count, asked.config.protect_recent)
    if wire.read_conversation(asked.body) is None:
        raise _invalid_request("messages must be a list of messages, each with a role", "messages")
    condenser = BodyRewriter(held.settings, held.conversation_compressor, held.auto_mode, wire)
    shorter = await condenser.rewrite_body(visit, asked.raw_body, asked.body, its_owner)
    visit.overhead_seconds = perf_counter() - visit.start_time
    if visit.is_late and asked.config.session_id is not None:
        visit.saved_tokens, visit.passages = 0, ()
        message = "compression was not done in time; asked again, what was late comes back as it is"
        raise ApiError(503, message, code="compression_timeout", headers={"retry-after": "1"})
    if len(asked.raw_body) > json_codec.LONG_TEXT_BYTES:  # to write it would hold up the event loop
        return await asyncio.to_thread(_serialize_answer, visit, asked, shorter)
    return _serialize_answer(visit, asked, shorter)


def _serialize_answer(visit: RequestContext, asked: CompressRequest, shorter: bytes) -> bytes:
    # Not orjson: it would make floating-point numbers of integers beyond 64 bits.
    messages = json.loads(shorter)["messages"]
    return json.dumps(_build_answer(visit, messages, _find_new_hashes(asked.body["messages"], messages))).encode()


def _build_answer(visit: RequestContext, messages: Sequence[Json], hashes: Sequence[str]) -> Json:
    after = visit.received_tokens - visit.saved_tokens
    reason = (
        "compression_timeout" if "late" in visit.skip_counts else ", ".join(visit.skip_counts) or "nothing-to-leave-out"
    )
    done = dict.fromkeys(f"{visit.mode}:{passage.kind}" for passage in visit.passages if not passage.reason)
    return {
        "messages": messages,
        "tokens_before": visit.received_tokens,
        "tokens_after": after,
        "tokens_saved": visit.saved_tokens,
        "compression_ratio": after / visit.received_tokens if visit.received_tokens else 1.0,
        "transforms_applied": list(done) if visit.saved_tokens else [],
        "ccr_hashes": hashes,
        "compression_skipped": not visit.saved_tokens,
        "skip_reason": None if visit.saved_tokens else reason,
        "would_save": visit.potential_saved_tokens,
    }


def _find_new_hashes(before: Sequence[Json], after: Sequence[Json]) -> list[str]:
    """Name the originals that markers lead to: what looks like a name and was not in the message as it came."""
    found: list[str] = []
    for old, new in zip(before, after, strict=True):
        if old != new:
            known = set(_find_hashes(old))
            found += [name for name in _find_hashes(new) if name not in known]
    return list(dict.fromkeys(found))


def _find_hashes(message: Json) -> list[str]:
    return _HASH_PATTERN.findall(json.dumps(message.get("content")))


def _invalid_request(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_request")


async def _unused_send(_: object) -> None:
    raise AssertionError("the framework sends the response")
