"""Models that are not served by the OpenAI-shaped upstream: litellm speaks to their providers.

litellm is imported when the first such model is asked for, because that takes two seconds and 160 MB. Keys come from
the configuration file or from the providers' own variables; a client's key never goes to a provider (law 8), and a
request cannot name a host: only the fields below are passed on.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cache
from importlib import import_module
from typing import Any, cast

import orjson

from ...config import offline
from ...config.settings import LitellmModel
from ..protocols import sse
from ..protocols.api_errors import ApiError, UpstreamError
from ..protocols.json_types import Json
from .exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, RawHeaders

FORWARDED_FIELDS = frozenset(
    {"audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens"}
    | {"max_tokens", "messages", "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction"}
    | {"presence_penalty", "reasoning_effort", "response_format", "safety_settings", "seed", "service_tier", "stop"}
    | {"store", "stream", "stream_options", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_logprobs"}
    | {"top_p", "user", "verbosity", "web_search_options"}
)


class LitellmReply:
    """A provider's reply, as if it had come by HTTP: a whole body, or events."""

    def __init__(self, body: bytes | AsyncIterator[bytes]) -> None:
        self._body = body
        self.status = 200
        self.headers: RawHeaders = JSON_HEADERS if isinstance(body, bytes) else EVENT_STREAM_HEADERS
        self.content_type = "application/json" if isinstance(body, bytes) else "text/event-stream"

    async def read(self) -> bytes:
        """Return the whole body."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Yield the body, event by event if it is streamed."""
        if isinstance(self._body, bytes):
            yield self._body
            return
        async for chunk in self._body:
            yield chunk


class LitellmProviders:
    """Knows which models go through litellm, and asks it."""

    def __init__(self, models: Sequence[LitellmModel], prefixes: Sequence[str], timeout: float) -> None:
        self._models = {model.name: model for model in models}
        self._prefixes = frozenset(prefixes)
        self._timeout = timeout

    def serves(self, model: str) -> bool:
        """Say whether a model goes through litellm."""
        return model in self._models or ("/" in model and model.split("/", 1)[0] in self._prefixes)

    def list_model_names(self) -> list[str]:
        """List the models of the configuration file, as clients call them."""
        return list(self._models)

    def get_litellm_name(self, model: str) -> str:
        """Return what litellm calls a model of the configuration file, by which its prices are known; "" for others."""
        return self._models[model].litellm if model in self._models else ""

    @asynccontextmanager
    async def send(self, body: Json) -> AsyncGenerator["LitellmReply"]:
        """Ask for a chat completion and yield the reply, in OpenAI's shape.

        Raises:
            ApiError: with the status of the provider's own error.
        """
        if body.get("stream") is not True:
            yield LitellmReply(orjson.dumps(await self.complete(body)))
            return
        async with aclosing(self.stream(body)) as chunks:
            yield LitellmReply(
                _encode_stream(await anext(chunks, None), chunks)
            )  # who refuses is answered with its status

    async def complete(self, body: Json) -> Json:
        """Answer a chat completion; raises what `send` does."""
        with _map_errors():
            answer = await (await _load_litellm()).acompletion(**self._build_arguments(body))
        return cast("Json", answer.model_dump(exclude_none=True))

    async def stream(self, body: Json) -> AsyncGenerator[Json]:
        """Answer a streamed chat completion, chunk by chunk; closing the iterator closes the provider's stream."""
        with _map_errors():
            chunks = await (await _load_litellm()).acompletion(**self._build_arguments(body))
            async for chunk in chunks:
                yield _drop_empty_choices(cast("Json", chunk.model_dump(exclude_none=True)))

    async def close(self) -> None:
        """Close the connections that litellm keeps to providers."""
        if _import_litellm.cache_info().currsize:
            await _import_litellm().close_litellm_async_clients()
            # It finds clients by the address of their event loop, and another loop may get that address.
            _import_litellm().in_memory_llm_clients_cache.flush_cache()

    def _build_arguments(self, body: Json) -> Json:
        strange = sorted(set(body) - FORWARDED_FIELDS)
        if strange:
            message = f"the field {strange[0]} cannot be passed on to this model's provider"
            raise ApiError(400, message, param=strange[0], code="unsupported_field")
        model = self._models.get(str(body["model"]))
        chosen = {"model": model.litellm, "api_key": model.api_key, "api_base": model.api_base} if model else {}
        # What litellm does with tools of kind `mcp` needs a package that it does not bring along.
        return {**body, **chosen, "timeout": self._timeout, "max_retries": 0, "_skip_mcp_handler": True}


async def _encode_stream(first: Json | None, rest: AsyncIterator[Json]) -> AsyncGenerator[bytes]:
    if first is not None:
        yield sse.encode_event(orjson.dumps(first))
    async for chunk in rest:
        yield sse.encode_event(orjson.dumps(chunk))
    yield sse.encode_event(b"[DONE]")


def _drop_empty_choices(chunk: Json) -> Json:
    """Write the chunk with the usage as OpenAI does: without choices, where litellm has an empty one."""
    says_nothing = not any(choice.get("delta") or choice.get("finish_reason") for choice in chunk["choices"])
    return {**chunk, "choices": []} if "usage" in chunk and says_nothing else chunk


async def _load_litellm() -> Any:
    return await asyncio.to_thread(_import_litellm)


@cache
def _import_litellm() -> Any:
    offline.use_bundled_files()
    litellm: Any = import_module("litellm")
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


@contextmanager
def _map_errors() -> Generator[None]:
    """Turn litellm's exceptions, which carry OpenAI's status codes, into ours."""
    try:
        yield
    except ApiError:
        raise
    except Exception as error:
        status = getattr(error, "status_code", None)
        if not isinstance(status, int) or not 400 <= status < 600:
            status = 502
        told = str(error).partition("\nTraceback (")[0]  # litellm writes where in this machine's files it happened
        raise UpstreamError(status, told[:2000], code=type(error).__name__) from error
