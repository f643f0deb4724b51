"""Requests to another clara-proxy that runs CLaRa, repeated until they succeed or their deadline comes."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast

import aiohttp
import orjson

from ...compression.clara.exceptions import UnknownRateError
from ...compression.models.errors import CheckpointError, DeadlineError, ModelError, QueueFullError

FIRST_PAUSE = 0.2  # seconds before the first repetition; each further pause is twice as long
_RETRIED_STATUSES = frozenset({429, 502, 503, 504})
_ERROR_TYPES: dict[str, type[ModelError]] = {
    "deadline": DeadlineError,
    "overloaded": QueueFullError,
    "model_unavailable": CheckpointError,
    "model_not_found": UnknownRateError,
}
Result = TypeVar("Result")


class _RefusedError(Exception):
    """The other machine answers with an error."""

    def __init__(self, error: ModelError, status: int) -> None:
        super().__init__(str(error))
        self.error, self.status = error, status


class RemoteConnection:
    """Connections to the clara-proxy at `url`; `key` is one of its keys. Deadlines are times of `time.monotonic()`."""

    def __init__(self, url: str, key: str | None) -> None:
        self.url = url
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=None))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def read_status(self) -> dict[str, Any] | None:
        """Return the machine's `/status`, or None if it is refused. Raises aiohttp's errors and OSError."""
        async with asyncio.timeout(5), self._session.get(f"{self.url}/status") as response:
            content: Any = await response.json(content_type=None)
        return cast("dict[str, Any]", content) if response.status < 400 and isinstance(content, dict) else None

    async def post(self, path: str, body: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Post JSON until it succeeds, or the deadline comes; return the answer's JSON. Raises `ModelError`."""
        return await self._retry(partial(self._post_once, path, body), deadline)

    async def post_for_lines(self, path: str, body: dict[str, Any], deadline: float) -> AsyncGenerator[dict[str, Any]]:
        """Post JSON until an answer begins, and yield its lines, each a JSON object. Raises `ModelError`."""
        response = await self._retry(partial(self._open_stream, path, body), deadline)
        buffer = b""
        try:
            while not response.content.at_eof():
                buffer += await asyncio.wait_for(response.content.readany(), max(0.0, deadline - time.monotonic()))
                *lines, buffer = buffer.split(b"\n")
                for line in filter(None, lines):
                    yield orjson.loads(line)
            if buffer:
                yield orjson.loads(buffer)
        except TimeoutError:
            raise DeadlineError("the deadline passed before the answer was complete") from None
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise ModelError(f"{self.url} broke off its answer: {type(failure).__name__}") from failure
        finally:
            response.close()  # an unread answer ends here, and with it the job

    async def _post_once(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with self._session.post(self.url + path, json=body) as response:
            content: Any = await response.json(content_type=None)
            if response.status < 400 and isinstance(content, dict):
                return cast("dict[str, Any]", content)
            raise _RefusedError(read_error(content, response.status), response.status)

    async def _open_stream(self, path: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        response = await self._session.post(self.url + path, json=body)
        if response.status < 400:
            return response
        async with response:
            raise _RefusedError(read_error(await response.json(content_type=None), response.status), response.status)

    async def _retry(self, send: Callable[[], Awaitable[Result]], deadline: float) -> Result:
        pause, problem = FIRST_PAUSE, "no answer in time"
        while (seconds := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(seconds):
                    return await send()
            except TimeoutError:
                break
            except _RefusedError as refusal:
                error, status = refusal.error, refusal.status
            except (aiohttp.ClientError, OSError, ValueError) as failure:
                error, status = ModelError(f"{self.url} cannot be reached: {type(failure).__name__}"), 503
            if status not in _RETRIED_STATUSES or isinstance(error, DeadlineError | CheckpointError):
                raise error
            problem = str(error)
            await asyncio.sleep(min(pause, max(0.0, deadline - time.monotonic())))
            pause *= 2
        raise DeadlineError(f"the CLaRa machine did not answer before the deadline: {problem}")


def read_error(content: Any, status: int) -> ModelError:
    """Return the error in a response's JSON."""
    error = parse_error(content)
    message = str(error.get("message") or f"status {status}")
    if status in (401, 403):
        return ModelError(f"the CLaRa machine refuses the key (CLARA_BACKEND_KEY): {message}")
    return _ERROR_TYPES.get(str(error.get("code")), ModelError)(message)


def parse_error(content: Any) -> dict[str, Any]:
    """Return the error in a response's JSON, or an empty mapping."""
    error: Any = cast("dict[str, Any]", content).get("error") if isinstance(content, dict) else None
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}
