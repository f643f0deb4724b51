"""vLLM servers that decode for CLaRa: identity, health, least load, and another try on another server.

Before a server's first answer, and again after a failure, a canary compares its log probabilities with this process's
engine: another checkpoint, or an adapter that is ignored, would otherwise give plausible nonsense. Belongs to one event
loop.
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import orjson

from ...compression.models.errors import ModelError
from .vllm_generation import Generation, InvalidReplyError, read_log_probabilities

if TYPE_CHECKING:
    from ...compression.clara.clara import Clara
    from ...compression.clara.embedded_prompt import Canary

ADAPTER = "decoder"  # the name in --lora-modules or, for a merged model, in --served-model-name
FIRST_PAUSE = 0.2  # seconds until a server that failed is tried again; each further pause is twice as long
MAX_PAUSE = 15.0
HEALTH_INTERVAL = 15.0
CANARY_TOLERANCE = 1.0  # nats; other number formats and kernels differ by tenths, other checkpoints by several
_MODEL_NAME = re.compile(r"clara-h(\d+)-m(\d+)")
log = logging.getLogger(__name__)


class _ServerError(Exception):
    """A server cannot serve now; if `is_permanent`, its operator must change something first."""

    def __init__(self, message: str, *, is_permanent: bool = False) -> None:
        super().__init__(message)
        self.is_permanent = is_permanent


@dataclass(eq=False)
class _Server:
    url: str
    running: int = 0
    max_positions: int | None = None
    is_checked: bool = False
    problem: str = "not checked yet"
    is_broken: bool = False  # until its operator changes something
    pause: float = FIRST_PAUSE
    retry_time: float = 0.0
    check_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def fail(self, error: _ServerError) -> None:
        """Keep the server from being used for a while; the canary is repeated before its next answer."""
        if self.problem != str(error):
            log.warning("the vLLM server %s cannot be used: %s", self.url, error)
        self.is_checked, self.problem, self.is_broken = False, str(error), error.is_permanent
        self.retry_time = time.monotonic() + (MAX_PAUSE if error.is_permanent else self.pause)
        self.pause = min(2 * self.pause, MAX_PAUSE)

    def succeed(self) -> None:
        """Note that the server has answered."""
        self.is_checked, self.problem, self.is_broken, self.pause = True, "", False, FIRST_PAUSE


class VllmDecoders:
    """Decodes prompts on the vLLM servers at `urls`; `key` is the one of their `--api-key`."""

    def __init__(self, urls: Sequence[str], key: str | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._servers = [_Server(url.rstrip("/").removesuffix("/v1")) for url in urls]
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5)
        self._session = aiohttp.ClientSession(
            headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0), trust_env=False
        )
        self._canaries: dict[str, Canary] = {}
        self._canary_lock = asyncio.Lock()
        self._watch_task = self.loop.create_task(self._watch_servers())

    async def decode(self, generation: Generation) -> None:
        """Generate an answer to its end, on one server or, after failures, on others.

        Raises `ModelError` if no server can be used. Cancelling it closes the connection and frees the server.
        """
        while generation.finish is None:
            server = await self._choose_server()
            server.running += 1
            try:
                if not server.is_checked:
                    await self._check_server(server, generation.prompt.clara)
                await self._continue_on(server, generation)
                server.succeed()
            except (_ServerError, InvalidReplyError) as error:
                server.fail(error if isinstance(error, _ServerError) else _ServerError(str(error), is_permanent=True))
            finally:
                server.running -= 1

    def status(self) -> list[dict[str, Any]]:
        """Return the state of each server."""
        return [
            {"url": server.url, "ready": server.is_checked, "running": server.running, "problem": server.problem}
            for server in self._servers
        ]

    async def aclose(self) -> None:
        """Close the connections."""
        self._watch_task.cancel()
        await asyncio.gather(self._watch_task, return_exceptions=True)
        await self._session.close()

    async def _choose_server(self) -> _Server:
        """Return the usable server with the fewest running answers; waits for one that failed for a moment."""
        while True:
            now = time.monotonic()
            usable = [server for server in self._servers if server.retry_time <= now]
            if usable:
                return min(usable, key=lambda server: (server.running, not server.is_checked))
            if all(server.is_broken for server in self._servers):
                raise ModelError(self.describe_problems())
            await asyncio.sleep(min(server.retry_time for server in self._servers) - now)

    def describe_problems(self) -> str:
        """Return the problems of the servers, separated by semicolons; "" without problems."""
        problems = "; ".join(f"{server.url}: {server.problem}" for server in self._servers if server.problem)
        return f"vLLM servers that cannot be used (CLARA_VLLM_URL): {problems}" if problems else ""

    async def _continue_on(self, server: _Server, generation: Generation) -> None:
        body = await asyncio.to_thread(generation.build_body, ADAPTER, server.max_positions)
        if body is None:
            generation.end_without_room()
            return
        async with self._post(server, body) as response:
            if not generation.is_streamed:
                generation.add_choice(_read_choice(await response.json(content_type=None)))
                return
            async for line in response.content:
                if not line.startswith(b"data:") or (data := line[5:].strip()) == b"[DONE]":
                    continue
                choice = _read_choice(orjson.loads(data))
                must_restart = generation.add_choice(choice)
                if must_restart or (generation.finish is not None and choice.get("finish_reason") is None):
                    return  # closing the connection stops the server; otherwise the stream ends by itself
            if generation.finish is None:
                raise _ServerError("its stream ended early")

    async def _check_server(self, server: _Server, clara: "Clara") -> None:
        async with server.check_lock:
            if server.is_checked:
                return
            base = await self._read_models(server)
            canary = await self._get_canary(clara)
            match = _MODEL_NAME.fullmatch(base)
            if match and (int(match[1]), int(match[2])) != (canary.hidden_size, canary.memory_tokens):
                raise _ServerError(
                    f"it serves {base}, but this checkpoint has hidden size {canary.hidden_size} and "
                    f"{canary.memory_tokens} memory tokens",
                    is_permanent=True,
                )
            body = {
                "model": ADAPTER,
                "prompt_embeds": canary.payload,
                "max_tokens": 1,
                "temperature": 0,
                "logprobs": 5,
                "return_token_ids": True,
                "return_tokens_as_token_ids": True,
            }
            async with self._post(server, orjson.dumps(body), is_canary=True) as response:
                choice = _read_choice(await response.json(content_type=None))
            if not isinstance(choice.get("token_ids"), list):
                raise InvalidReplyError("it returns no token ids: vLLM 0.11 or later is needed")
            problem = canary.describe_difference(read_log_probabilities(choice), CANARY_TOLERANCE)
            if problem:
                raise _ServerError(problem, is_permanent=True)
            server.succeed()

    async def _read_models(self, server: _Server) -> str:
        """Read the longest context of a server; return the name of its base model."""
        async with self._request("GET", f"{server.url}/v1/models") as response:
            content: Any = await response.json(content_type=None)
        try:
            cards: dict[str, dict[str, Any]] = {card["id"]: card for card in content["data"]}
        except (KeyError, TypeError):
            raise InvalidReplyError("it is not a vLLM server") from None
        if ADAPTER not in cards:
            raise _ServerError(f"it has no model {ADAPTER} (--lora-modules {ADAPTER}=...)", is_permanent=True)
        # An adapter names its base; a merged model is served under both names.
        base = str(cards[ADAPTER].get("parent") or next(filter(_MODEL_NAME.fullmatch, cards), ADAPTER))
        length = cards.get(base, {}).get("max_model_len")
        server.max_positions = length if isinstance(length, int) else None
        return base

    async def _get_canary(self, clara: "Clara") -> "Canary":
        async with self._canary_lock:
            if clara.fingerprint not in self._canaries:
                from ...compression.clara.embedded_prompt import build_canary  # noqa: PLC0415 - loads torch

                self._canaries = {clara.fingerprint: await asyncio.to_thread(build_canary, clara)}
            return self._canaries[clara.fingerprint]

    @asynccontextmanager
    async def _post(
        self, server: _Server, body: bytes, *, is_canary: bool = False
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        url = f"{server.url}/v1/completions"
        async with self._request("POST", url, body, is_canary=is_canary) as response:
            yield response

    @asynccontextmanager
    async def _request(
        self, method: str, url: str, body: bytes | None = None, *, is_canary: bool = True
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        """Yield a successful response; map every failure, those while it is read included.

        Raises `_ServerError`, or `ModelError` if the server refuses this request, and not the canary.
        """
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            async with self._session.request(method, url, data=body, headers=headers) as response:
                if response.status >= 400:
                    raise _map_status(response.status, await response.text(), is_canary=is_canary)
                yield response
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, InvalidReplyError):
                raise
            raise _ServerError(f"it cannot be reached ({type(error).__name__})") from error

    async def _watch_servers(self) -> None:
        """Note servers that fail while they are idle, and those that come back."""
        while True:
            await asyncio.gather(*(self._watch_server(server) for server in self._servers))
            await asyncio.sleep(HEALTH_INTERVAL)

    async def _watch_server(self, server: _Server) -> None:
        try:
            async with asyncio.timeout(5), self._request("GET", f"{server.url}/health"):
                pass
            if not server.is_checked and not server.is_broken:
                await self._read_models(server)
        except TimeoutError:
            if not server.running:  # a busy server may answer late
                server.fail(_ServerError("it does not answer"))
        except (_ServerError, InvalidReplyError) as error:
            server.fail(error if isinstance(error, _ServerError) else _ServerError(str(error), is_permanent=True))
        else:
            if not server.is_broken:
                server.retry_time = 0.0


def _map_status(status: int, text: str, *, is_canary: bool) -> Exception:
    """Return the exception for an error status and its body."""
    message = f"status {status}"
    with suppress(orjson.JSONDecodeError, KeyError, TypeError):
        message = str(orjson.loads(text)["error"]["message"])[:300]
    if status in (401, 403):
        return _ServerError("it refuses the key (CLARA_BACKEND_KEY)", is_permanent=True)
    if status == 404 or (is_canary and status < 429):
        return _ServerError(f"it refuses the request: {message}", is_permanent=True)
    if status in (400, 413, 422):
        return ModelError(f"vLLM refuses the request: {message}")
    return _ServerError(f"it failed: {message}")


def _read_choice(content: Any) -> dict[str, Any]:
    """Return the choice of a reply or an event. Raises `_ServerError` if it reports an error."""
    if isinstance(content, dict):
        reply = cast("dict[str, Any]", content)
        if "error" in reply:
            raise _ServerError(f"it failed: {str(reply['error'])[:300]}")
        choices: Any = reply.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], dict):
            return cast("dict[str, Any]", choices[0])
    raise InvalidReplyError("it is not a vLLM server")
