"""Two upstream doubles that bill as OpenAI and as Anthropic do, to the token: what each charges for is what arrived.

Doubles, not models: the replies are a script's. A prompt is a list of tokens, and a cache knows prefixes of those by
their hash; nothing here looks at messages to say what is cached, and nothing here knows the proxy's ledger. Tokens are
counted as the proxy counts them, so that its figures can be held to these to the cent.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import orjson
import tiktoken

from ..compression.tokens import LONGEST, STAND_IN
from ..config import offline
from ..config.prices import Price
from ..proxy.http.exchange import JSON_HEADERS, Exchange, Receive, Scope, Send
from ..proxy.protocols import chat, messages
from ..proxy.protocols.json_types import Json

Script = Callable[[Json], Json]
OPENAI_LEAST, OPENAI_STEP = 1024, 128  # tokens
LOOK_BACK = 20  # blocks before a breakpoint where Anthropic looks for what it knows
_START, _END, _WAITING = -1, -2, -3  # tokens that no text has


class Prompt(NamedTuple):
    """The tokens of a prompt, where its blocks end, and at which of these places it asks to be cached."""

    tokens: list[int]
    ends: list[int]
    breakpoints: list[int]


class Charge(NamedTuple):
    """What one request is charged for, in tokens: `plain` prompt, cache reads and writes, output."""

    plain: int
    read: int
    write: int
    output: int

    def dollars(self, price: Price) -> float:
        """Return the charge in dollars."""
        rates = (price.input, price.cache_read, price.cache_write, price.output)
        rated = zip(self, rates, strict=True)
        return sum(count * (rate or 0.0) for count, rate in rated)


@dataclass(slots=True)
class Biller:
    """An upstream, as an ASGI application. `charges` is its own bill, request by request; `dollars` adds it up."""

    script: Script
    price: Price
    charges: list[Charge] = field(default_factory=list[Charge])
    known: set[bytes] = field(default_factory=set[bytes])

    @property
    def dollars(self) -> float:
        """Return what all requests came to."""
        return sum(charge.dollars(self.price.at(sum(charge[:3]))) for charge in self.charges)

    def forget(self) -> None:
        """Drop what is cached, as a provider does that has not been asked for some minutes."""
        self.known.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, send)
            request: Json = orjson.loads(await exchange.read_body(2**30))
            await exchange.send_response(200, JSON_HEADERS, orjson.dumps(self.answer(request)))

    def answer(self, request: Json) -> Json:
        """Answer a request and charge for it."""
        raise NotImplementedError


class OpenAIBiller(Biller):
    """Chat completions. A prefix is cached in whole steps of 128 tokens, from 1,024 on, without being asked."""

    def answer(self, request: Json) -> Json:
        """Answer a request and charge for it."""
        message = self.script(request)
        prompt = _chat(request)
        steps = range(OPENAI_STEP, len(prompt) + 1, OPENAI_STEP)
        hashes = list(_hashes(prompt, steps))
        hits = [at for at, name in zip(steps, hashes, strict=True) if name in self.known]
        cached = hits[-1] if hits and hits[-1] >= OPENAI_LEAST else 0
        self.known.update(hashes)
        output = sum(len(_encoded(text)) for text in chat.texts({}, [message]))
        self.charges.append(Charge(len(prompt) - cached, cached, 0, output))
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": output,
            "total_tokens": len(prompt) + output,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        common = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["model"]}
        return {**common, "choices": [choice], "usage": usage}


class AnthropicBiller(Biller):
    """Messages. A prefix is cached where a breakpoint says so, and found again from one, up to 20 blocks before it."""

    def answer(self, request: Json) -> Json:
        """Answer a request and charge for it."""
        reply = self.script(request)
        prompt = _messages(request)
        least = self.price.cache_least or 1024
        names = dict(zip(prompt.ends, _hashes(prompt.tokens, prompt.ends), strict=True))
        wanted = [at for at in prompt.breakpoints if at >= least]
        looked = {at for mark in wanted for at in _back(prompt.ends, mark)}
        read = max((at for at in looked if names[at] in self.known), default=0)
        write = max(0, max(wanted, default=0) - read)
        self.known.update(names[at] for at in wanted)
        output = sum(len(_encoded(text)) for text in messages.counted({}, [reply]))
        self.charges.append(Charge(len(prompt.tokens) - read - write, read, write, output))
        usage = {
            "input_tokens": len(prompt.tokens) - read - write,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": write,
            "output_tokens": output,
        }
        calls = any(block["type"] == "tool_use" for block in reply["content"])
        common = {"id": "msg_1", "type": "message", "role": "assistant", "model": request["model"]}
        stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
        return {**common, "content": reply["content"], **stop, "usage": usage}


def _chat(request: Json) -> list[int]:
    """Return the tokens of a chat: tools, then messages, then what the reply begins with."""
    prompt = [token for text in chat.texts({**request, "messages": []}, []) for token in _encoded(text)]
    for message in request["messages"]:
        role = _role(message["role"])
        prompt += [_START, role, _WAITING, _END]
        prompt += [token for text in chat.texts({}, [message]) for token in _encoded(text)]
    return [*prompt, _START, _role("assistant"), _WAITING]


def _messages(request: Json) -> Prompt:
    """Return the tokens of a request of Anthropic's: tools, then the system's, then messages, block by block."""
    prompt = Prompt([], [], [])
    tools: list[Json] = request.get("tools") or []
    for tool in tools:
        _add(prompt, messages.counted({"tools": [tool]}, []), tool)
    system: str | list[Json] = request.get("system") or []
    for block in _blocks(system):
        _add(prompt, messages.counted({"system": [block]}, []), block)
    for message in request["messages"]:
        prompt.tokens.extend([_START, _role(message["role"]), _WAITING, _END])
        for block in _blocks(message["content"]):
            _add(prompt, messages.counted({}, [{"role": "user", "content": [block]}]), block)
    prompt.tokens.extend([_START, _role("assistant"), _WAITING])
    return prompt


def _blocks(content: str | list[Json]) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _add(prompt: Prompt, texts: Sequence[str], block: Json) -> None:
    for text in texts:
        prompt.tokens.extend(_encoded(text))
    prompt.ends.append(len(prompt.tokens))
    if "cache_control" in block:
        prompt.breakpoints.append(len(prompt.tokens))


def _back(ends: list[int], mark: int) -> list[int]:
    at = ends.index(mark)
    return ends[max(0, at - LOOK_BACK) : at + 1]


def _hashes(prompt: Sequence[int], places: Sequence[int]) -> Iterator[bytes]:
    """Name the prefixes that end at these places, in rising order."""
    written = array("i", prompt)
    running, before = blake2b(digest_size=16), 0
    for at in places:
        running.update(written[before:at].tobytes())
        before = at
        yield running.copy().digest()


def _role(role: str) -> int:
    return -10 - ["system", "developer", "user", "assistant", "tool", "function"].index(role)


@lru_cache(maxsize=100_000)
def _encoded(text: str) -> list[int]:
    offline.use_bundled()
    encoding, size = tiktoken.get_encoding(STAND_IN), LONGEST
    pieces = (text[at : at + size] for at in range(0, len(text), size))
    return [token for piece in pieces for token in encoding.encode_ordinary(piece)]
