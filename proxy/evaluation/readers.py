"""Models that answer the question from a compressed text: an OpenAI-compatible endpoint, or CLaRa itself."""

import asyncio
import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import orjson

from ...compression.clara.async_engine import ClaraBackend
from ...compression.models.errors import ModelError
from ..http.upstream import Upstream
from ..protocols.api_errors import ApiError, describe_error
from ..protocols.json_types import is_object

MAX_ANSWER_TOKENS = 32
ATTEMPTS = 4  # for a reader that is busy
RETRY_STATUS = frozenset({408, 409, 429})
# With an example, a model that is not tuned for instructions answers, too; it would go on with a question of its own.
PROMPT = (
    "Answer the question from the text, with as few words as possible.\n\n"
    "Text: The Eiffel Tower was completed in March 1889 for the World's Fair in Paris.\n"
    "Question: When was the Eiffel Tower completed?\nAnswer: March 1889\n\n"
    "Text: {text}\nQuestion: {question}\nAnswer:"
)
_STOP = ["\nQuestion:", "\n\nText:"]
_REJECTED_FIELDS = ("max_tokens", "temperature", "stop")  # by models that reason
log = logging.getLogger(__name__)


class ReaderError(Exception):
    """The reader cannot be used; the message says why and names its address."""


class ReaderAnswer(NamedTuple):
    """A prediction and its seconds.

    A refused request, such as one that exceeds the reader's window, has an `error` and an empty prediction.
    """

    text: str
    seconds: float
    error: str = ""


class Reader(Protocol):
    """Answers questions from texts; `name` identifies the model."""

    @property
    def name(self) -> str:
        """Return the name of the model."""
        ...

    async def answer(self, text: str, question: str) -> ReaderAnswer:
        """Return the answer to a question from a text. Raises `ReaderError`."""
        ...


class EndpointReader:
    """A model behind `POST {base_url}/chat/completions`; temperature 0."""

    def __init__(self, upstream: Upstream, base_url: str, model: str, key: str | None) -> None:
        self.name = model
        self._upstream, self._url = upstream, f"{base_url.rstrip('/')}/chat/completions"
        # A clara-proxy must not compress the text again; other servers ignore its header.
        self._headers = [("content-type", "application/json"), ("x-clara-mode", "off")]
        if key:
            self._headers.append(("authorization", f"Bearer {key}"))
        self._limits: dict[str, Any] = {
            "max_tokens": MAX_ANSWER_TOKENS,
            "temperature": 0,
            "seed": 1,
            "stop": _STOP,
        }

    async def answer(self, text: str, question: str) -> ReaderAnswer:
        """Send one request; wait and repeat it if the reader is busy."""
        message = {"role": "user", "content": PROMPT.format(text=text, question=question)}
        started = perf_counter()
        status, reply = await self._post({"model": self.name, "messages": [message], **self._limits})
        if status == 400 and "max_tokens" in self._limits and any(name in str(reply) for name in _REJECTED_FIELDS):
            limits = {"max_completion_tokens": 64 * MAX_ANSWER_TOKENS}  # reasoning counts, too
            status, reply = await self._post({"model": self.name, "messages": [message], **limits})
            self._limits = limits if status == 200 else self._limits  # a text that is too long may name them, too
        seconds = perf_counter() - started
        if status in (400, 413, 422):
            return ReaderAnswer("", seconds, f"status {status}: {_describe(reply)}")
        if status != 200:
            raise ReaderError(f"the reader {self._url} answered with status {status}: {_describe(reply)}")
        try:
            content: Any = reply["choices"][0]["message"].get("content")
            return ReaderAnswer(str(content or ""), seconds)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ReaderError(f"the reader {self._url} sent no chat completion") from error

    async def _post(self, body: dict[str, Any]) -> tuple[int, Any]:
        """Return the status and the parsed reply; None if it is not JSON."""
        attempt = 0
        while True:
            attempt += 1
            try:
                async with self._upstream.send("POST", self._url, self._headers, orjson.dumps(body)) as reply:
                    raw, status = await reply.read(), reply.status
            except ApiError as error:
                raise ReaderError(f"the reader {self._url} cannot be used: {error}") from error
            if (status not in RETRY_STATUS and status < 500) or attempt == ATTEMPTS:
                break
            log.warning("the reader answered with status %d; trying again", status)
            await asyncio.sleep(2.0 ** (attempt - 1))
        try:
            return status, orjson.loads(raw)
        except orjson.JSONDecodeError:
            return status, None


class ClaraReader:
    """The local CLaRa; it compresses every text to memories and reads these."""

    def __init__(self, clara: ClaraBackend, seconds: float) -> None:
        self.name = "clara"
        self._clara, self._seconds = clara, seconds

    async def answer(self, text: str, question: str) -> ReaderAnswer:
        """Compress the text to memories and answer from them."""
        return (await read_memories(self._clara, [text], question, self._seconds))[0]


async def read_memories(
    clara: ClaraBackend, documents: Sequence[str], question: str, seconds: float
) -> tuple[ReaderAnswer, int]:
    """Return CLaRa's answer from the memories of documents, and its memory tokens; `seconds` is the timeout.

    The answer is empty if the model says that it is not in memory.
    """
    started = perf_counter()
    try:
        reply = await clara.answer(documents, question, MAX_ANSWER_TOKENS, seconds)
    except ModelError as error:
        return ReaderAnswer("", perf_counter() - started, str(error)), 0
    return ReaderAnswer(reply.text, perf_counter() - started), reply.memory_tokens


def _describe(reply: Any) -> str:
    return describe_error(reply) if is_object(reply) else "no JSON"
