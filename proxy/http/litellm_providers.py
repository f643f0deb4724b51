"""Models of other providers, through litellm.

litellm is imported at the first request for such a model, since the import takes two seconds and 160 MB. Keys come from
the configuration file or the providers' own variables; a client's key is never sent to a provider. Only the fields in
`FORWARDED_FIELDS` are passed on, so a request cannot name a host. Those in `DROPPED_FIELDS` are dropped, all others
rejected.
"""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import cache
from importlib import import_module
from typing import Any, cast

import orjson

from ...config import offline
from ...config.server_settings import LitellmModel
from ..protocols import sse
from ..protocols.api_errors import ApiError, UpstreamError
from ..protocols.json_types import Json
from .exchange import EVENT_STREAM_HEADERS, JSON_HEADERS, RawHeaders
from .model_names import reject_private_urls

FORWARDED_FIELDS = frozenset(
    {"audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens"}
    | {"max_tokens", "messages", "metadata", "modalities", "model", "n", "parallel_tool_calls", "prediction"}
    | {"presence_penalty", "reasoning_effort", "response_format", "safety_settings", "seed", "service_tier", "stop"}
    | {"store", "stream", "stream_options", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_logprobs"}
    | {"top_p", "user", "verbosity", "web_search_options"}
)
# Hints to OpenAI or OpenRouter that do not change what the model is asked; other unknown fields are rejected.
DROPPED_FIELDS = frozenset(
    {"include_reasoning", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning"}
    | {"safety_identifier", "usage"}
)
_IMPORT_LOCK = threading.Lock()
log = logging.getLogger(__name__)


class LitellmReply:
    """A provider's reply in the form of an HTTP response: a whole body, or a stream of events."""

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
    """Sends requests for configured and prefixed models through litellm."""

    def __init__(self, models: Sequence[LitellmModel], prefixes: Sequence[str], timeout: float) -> None:
        self._models = {model.name: model for model in models}
        self._prefixes = frozenset(prefixes)
        self._timeout = timeout

    def serves(self, model: str) -> bool:
        """Return True if a model goes through litellm."""
        return model in self._models or ("/" in model and model.split("/", 1)[0] in self._prefixes)

    def list_model_names(self) -> list[str]:
        """Return the clients' names of the configured models."""
        return list(self._models)

    def get_litellm_name(self, model: str) -> str:
        """Return litellm's name of a configured model, the key of its prices; "" for other models."""
        return self._models[model].litellm if model in self._models else ""

    @asynccontextmanager
    async def send(self, body: Json) -> AsyncGenerator["LitellmReply"]:
        """Request a chat completion and yield the reply in OpenAI's format.

        Raises:
            ApiError: the provider's error, with its status; 400 for a URL of a private address.
        """
        await reject_private_urls(body.get("messages"))
        if body.get("stream") is not True:
            yield LitellmReply(orjson.dumps(await self.complete(body)))
            return
        async with aclosing(self.stream(body)) as chunks:
            first = await anext(chunks, None)  # an error before the first chunk still gets its own status
            yield LitellmReply(_encode_stream(first, chunks))

    async def complete(self, body: Json) -> Json:
        """Return a chat completion; raises the errors of `send`."""
        with _map_errors():
            completion = await (await _load_litellm()).acompletion(**self._build_arguments(body))
        return cast("Json", completion.model_dump(exclude_none=True))

    async def stream(self, body: Json) -> AsyncGenerator[Json]:
        """Yield the chunks of a streamed chat completion; closing the iterator closes the provider's stream."""
        with _map_errors():
            chunks = await (await _load_litellm()).acompletion(**self._build_arguments(body))
            async for chunk in chunks:
                yield _drop_empty_choices(cast("Json", chunk.model_dump(exclude_none=True)))

    async def close(self) -> None:
        """Close the connections that litellm keeps to providers."""
        if _import_litellm.cache_info().currsize:
            await _import_litellm().close_litellm_async_clients()
            # litellm finds clients by the address of their event loop, and another loop may get the same address.
            _import_litellm().in_memory_llm_clients_cache.flush_cache()

    def _build_arguments(self, body: Json) -> Json:
        unsupported = sorted(set(body) - FORWARDED_FIELDS - DROPPED_FIELDS)
        if unsupported:
            message = f"the field {unsupported[0]} is not supported for models that go through litellm"
            raise ApiError(400, message, param=unsupported[0], code="unsupported_field")
        model = self._models.get(str(body["model"]))
        provider = {"model": model.litellm, "api_key": model.api_key, "api_base": model.api_base} if model else {}
        # litellm's handling of tools of type `mcp` needs a package that is not installed with it.
        if dropped := sorted(DROPPED_FIELDS & set(body)):
            log.info("fields that litellm does not accept are not forwarded: %s", ", ".join(dropped))
            body = {name: value for name, value in body.items() if name not in DROPPED_FIELDS}
        return {**body, **provider, "timeout": self._timeout, "max_retries": 0, "_skip_mcp_handler": True}


async def _encode_stream(first: Json | None, rest: AsyncIterator[Json]) -> AsyncGenerator[bytes]:
    if first is not None:
        yield sse.encode_event(orjson.dumps(first))
    async for chunk in rest:
        yield sse.encode_event(orjson.dumps(chunk))
    yield sse.encode_event(b"[DONE]")


def _drop_empty_choices(chunk: Json) -> Json:
    """Remove litellm's empty choice from the chunk with the usage, as in OpenAI's format."""
    is_empty = not any(choice.get("delta") or choice.get("finish_reason") for choice in chunk["choices"])
    return {**chunk, "choices": []} if "usage" in chunk and is_empty else chunk


async def _load_litellm() -> Any:
    return await asyncio.to_thread(import_litellm)


def import_litellm() -> Any:
    """Import litellm without its downloads; takes seconds the first time.

    Two threads must not import it at once: its modules import each other, and one thread would see half of a module.
    """
    with _IMPORT_LOCK:
        return _import_litellm()


@cache
def _import_litellm() -> Any:
    offline.use_bundled_files()
    litellm: Any = import_module("litellm")
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


@contextmanager
def _map_errors() -> Generator[None]:
    """Map litellm's exceptions, with OpenAI's status codes, to API errors."""
    try:
        yield
    except ApiError:
        raise
    except Exception as error:
        status = getattr(error, "status_code", None)
        if not isinstance(status, int) or not 400 <= status < 600:
            status = 502
        message = str(error).partition("\nTraceback (")[0]  # the traceback would show this machine's paths
        raise UpstreamError(status, message[:2000], code=type(error).__name__) from error
