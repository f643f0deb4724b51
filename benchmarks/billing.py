"""Three upstream doubles that bill like OpenAI before GPT-5.6, OpenAI since then, and Anthropic, to the token.

Their replies come from a script. A prompt is a list of tokens, and the cache stores hashes of prefixes. The bill
depends only on the received tokens: it uses neither the message structure nor the proxy's ledger. Tokens are counted
like the proxy counts them, so that the ledger can be compared to the cent.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import orjson
import tiktoken

from ..compression.tokens import FALLBACK_ENCODING, MAX_ENCODE_CHARACTERS
from ..config import offline
from ..config.prices import Price
from ..proxy.http.exchange import JSON_HEADERS, Exchange, Receive, Scope, Send
from ..proxy.protocols import chat, messages
from ..proxy.protocols.json_types import Json

ReplyScript = Callable[[Json], Json]
OPENAI_MIN_CACHED_TOKENS, OPENAI_CACHE_STEP_TOKENS = 1024, 128
LOOKBACK_BLOCKS = 20  # Anthropic searches so many blocks before a breakpoint for a cached prefix
KEPT_RESULTS, CLEAR_STEP = 3, 5  # tool results that are never cleared, and how many are cleared at once
_REPLY_START_TOKENS = 3
_MESSAGE_START, _MESSAGE_END, _CONTENT_START = -1, -2, -3  # no text encodes to a negative token


class TokenizedPrompt(NamedTuple):
    """A prompt's tokens, with the token offsets of its block ends and of its cache breakpoints."""

    tokens: list[int]
    block_ends: list[int]
    breakpoints: list[int]


class TokenCharge(NamedTuple):
    """The billed tokens of one request."""

    uncached: int
    cache_read: int
    cache_write: int
    output: int

    def compute_dollars(self, price: Price) -> float:
        """Return the charge in dollars."""
        rates = (price.input, price.cache_read, price.cache_write, price.output)
        return sum(count * (rate or 0.0) for count, rate in zip(self, rates, strict=True))


@dataclass(slots=True)
class BillingUpstream:
    """An upstream as an ASGI application. `charges` is its bill, one entry a request; `total_dollars` is the sum."""

    script: ReplyScript
    price: Price
    charges: list[TokenCharge] = field(default_factory=list[TokenCharge])
    cached_prefixes: set[bytes] = field(default_factory=set[bytes])

    @property
    def total_dollars(self) -> float:
        """Return the bill for all requests in dollars."""
        return sum(charge.compute_dollars(self.price.rates_for(sum(charge[:3]))) for charge in self.charges)

    def clear_cache(self) -> None:
        """Drop the cache, as a provider does after some idle minutes."""
        self.cached_prefixes.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            exchange = Exchange(scope, receive, send)
            request: Json = orjson.loads(await exchange.read_body(2**30))
            await exchange.send_response(200, JSON_HEADERS, orjson.dumps(self.answer_request(request)))

    def answer_request(self, request: Json) -> Json:
        """Answer a request and charge for it."""
        raise NotImplementedError


class OpenAIUpstream(BillingUpstream):
    """Chat completions. Every prefix of at least 1,024 tokens is cached, in steps of 128 tokens."""

    def answer_request(self, request: Json) -> Json:
        """Answer a request and charge for it."""
        message = self.script(request)
        prompt = _tokenize_chat(request)
        steps = range(OPENAI_CACHE_STEP_TOKENS, len(prompt) + 1, OPENAI_CACHE_STEP_TOKENS)
        hashes = list(_hash_prefixes(prompt, steps))
        hits = [length for length, digest in zip(steps, hashes, strict=True) if digest in self.cached_prefixes]
        cached = hits[-1] if hits and hits[-1] >= OPENAI_MIN_CACHED_TOKENS else 0
        self.cached_prefixes.update(hashes)
        output = sum(len(_encode_text(text)) for text in chat.list_counted_texts({}, [message]))
        self.charges.append(TokenCharge(len(prompt) - cached, cached, 0, output))
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


class Gpt56Upstream(BillingUpstream):
    """Chat completions since GPT-5.6: writes are billed, and a prefix is cached at breakpoints only.

    There is one implicit breakpoint, at the end of the last message, unless `prompt_cache_options.mode` is explicit,
    and up to four explicit ones. A cached prefix may end at any earlier breakpoint.
    """

    def answer_request(self, request: Json) -> Json:
        """Answer a request and charge for it."""
        message = self.script(request)
        tokens, ends, explicit = _tokenize_chat_with_breakpoints(request)
        options: Json = request.get("prompt_cache_options") or {}
        is_implicit = options.get("mode") != "explicit"
        breakpoints = [*explicit[-(3 if is_implicit else 4) :], *([ends[-1]] if is_implicit else [])]
        breakpoints = [offset for offset in breakpoints if offset >= OPENAI_MIN_CACHED_TOKENS]
        hashes = dict(zip(ends, _hash_prefixes(tokens, ends), strict=True))
        candidates = ends if is_implicit else explicit
        read = max((end for end in candidates if hashes[end] in self.cached_prefixes), default=0)
        write = max(0, max(breakpoints, default=0) - read)
        self.cached_prefixes.update(hashes[offset] for offset in breakpoints)
        output = sum(len(_encode_text(text)) for text in chat.list_counted_texts({}, [message]))
        self.charges.append(TokenCharge(len(tokens) - read - write, read, write, output))
        usage = {
            "prompt_tokens": len(tokens),
            "completion_tokens": output,
            "total_tokens": len(tokens) + output,
            "prompt_tokens_details": {"cached_tokens": read, "cache_write_tokens": write},
        }
        finish = "tool_calls" if message.get("tool_calls") else "stop"
        choice = {"index": 0, "message": message, "finish_reason": finish, "logprobs": None}
        common = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": request["model"]}
        return {**common, "choices": [choice], "usage": usage}


class AnthropicUpstream(BillingUpstream):
    """Messages API. A prefix is cached at a breakpoint; a cached prefix may end up to 20 blocks before a breakpoint.

    Content before the newest `compaction` block is neither read nor billed. A script whose reply begins with such a
    block makes the API read the prompt once more, to write the summary. If a request asks for it, the API clears all
    but the newest tool results, in steps of `CLEAR_STEP`.
    """

    def answer_request(self, request: Json) -> Json:
        """Answer a request and charge for it."""
        reply = self.script(request)
        request = {**request, "messages": _drop_compacted(request["messages"])}
        edits, iterations = list[Json](), list[Json]()
        if request.get("context_management"):
            request, edits = _clear_tool_results(request)
        content: list[Json] = reply["content"]
        if content[0]["type"] == "compaction":
            iterations.append({"type": "compaction", **self._charge(request, content[:1])})
            request = {**request, "messages": [{"role": "assistant", "content": content[:1]}]}
        usage = self._charge(request, content)
        iterations.append({"type": "message", **usage})
        calls = any(block["type"] == "tool_use" for block in content)
        common = {"id": "msg_1", "type": "message", "role": "assistant", "model": request["model"]}
        stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
        managed = {"context_management": {"applied_edits": edits}} if edits else {}
        usage = {**usage, "iterations": iterations} if len(iterations) > 1 else usage
        return {**common, "content": content, **stop, **managed, "usage": usage}

    def _charge(self, request: Json, reply: list[Json]) -> Json:
        """Charge for a prompt and its reply, and return the usage."""
        prompt = _tokenize_messages(request)
        min_tokens = self.price.min_cacheable_tokens or 1024
        hashes = dict(zip(prompt.block_ends, _hash_prefixes(prompt.tokens, prompt.block_ends), strict=True))
        breakpoints = [offset for offset in prompt.breakpoints if offset >= min_tokens]
        candidates = {end for offset in breakpoints for end in _look_back(prompt.block_ends, offset)}
        read = max((end for end in candidates if hashes[end] in self.cached_prefixes), default=0)
        write = max(0, max(breakpoints, default=0) - read)
        self.cached_prefixes.update(hashes[offset] for offset in breakpoints)
        message = {"role": "assistant", "content": reply}
        output = sum(len(_encode_text(text)) for text in messages.list_counted_texts({}, [message]))
        self.charges.append(TokenCharge(len(prompt.tokens) - read - write, read, write, output))
        return {
            "input_tokens": len(prompt.tokens) - read - write,
            "cache_read_input_tokens": read,
            "cache_creation_input_tokens": write,
            "output_tokens": output,
        }


def _drop_compacted(conversation: list[Json]) -> list[Json]:
    """Return a conversation from its newest compaction block on."""
    for index in range(len(conversation) - 1, -1, -1):
        blocks = _list_blocks(conversation[index]["content"])
        for position in range(len(blocks) - 1, -1, -1):
            if blocks[position]["type"] == "compaction":
                return [{**conversation[index], "content": blocks[position:]}, *conversation[index + 1 :]]
    return conversation


def _clear_tool_results(request: Json) -> tuple[Json, list[Json]]:
    """Replace the oldest tool results by a placeholder; return the request and the applied edits."""
    blocks = [block for message in request["messages"] for block in _list_blocks(message["content"])]
    results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
    cleared = set(results[: max(0, (len(results) - KEPT_RESULTS) // CLEAR_STEP * CLEAR_STEP)])
    if not cleared:
        return request, []

    def clear(block: Json) -> Json:
        is_cleared = block["type"] == "tool_result" and block["tool_use_id"] in cleared
        return {**block, "content": "[cleared]"} if is_cleared else block

    conversation = [
        {**message, "content": [clear(block) for block in _list_blocks(message["content"])]}
        for message in request["messages"]
    ]
    edited = {**request, "messages": conversation}
    tokens = len(_tokenize_messages(request).tokens) - len(_tokenize_messages(edited).tokens)
    edit = {"type": "clear_tool_uses_20250919", "cleared_tool_uses": len(cleared), "cleared_input_tokens": tokens}
    return edited, [edit]


def _tokenize_chat_with_breakpoints(request: Json) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens of a chat, the offsets at which its messages end, and those of its explicit breakpoints."""
    ends, explicit = list[int](), list[int]()
    end = len(_tokenize_chat({**request, "messages": []})) - _REPLY_START_TOKENS
    for message in request["messages"]:
        end += len(_tokenize_chat({"messages": [message]})) - _REPLY_START_TOKENS
        ends.append(end)
        if any("prompt_cache_breakpoint" in part for part in _list_blocks(message.get("content") or "")):
            explicit.append(end)
    return _tokenize_chat(request), ends, explicit


def _tokenize_chat(request: Json) -> list[int]:
    """Return the tokens of a chat: tools, messages, and the start of the reply."""
    prompt = [
        token for text in chat.list_counted_texts({**request, "messages": []}, []) for token in _encode_text(text)
    ]
    for message in request["messages"]:
        role = _encode_role(message["role"])
        prompt += [_MESSAGE_START, role, _CONTENT_START, _MESSAGE_END]
        prompt += [token for text in chat.list_counted_texts({}, [message]) for token in _encode_text(text)]
    return [*prompt, _MESSAGE_START, _encode_role("assistant"), _CONTENT_START]


def _tokenize_messages(request: Json) -> TokenizedPrompt:
    """Return the tokens of a Messages API request: tools, system blocks, message blocks, and the start of the reply."""
    prompt = TokenizedPrompt([], [], [])
    tools: list[Json] = request.get("tools") or []
    for tool in tools:
        _add_block(prompt, messages.list_counted_texts({"tools": [tool]}, []), tool)
    system: str | list[Json] = request.get("system") or []
    for block in _list_blocks(system):
        _add_block(prompt, messages.list_counted_texts({"system": [block]}, []), block)
    for message in request["messages"]:
        prompt.tokens.extend([_MESSAGE_START, _encode_role(message["role"]), _CONTENT_START, _MESSAGE_END])
        for block in _list_blocks(message["content"]):
            _add_block(prompt, messages.list_counted_texts({}, [{"role": "user", "content": [block]}]), block)
    prompt.tokens.extend([_MESSAGE_START, _encode_role("assistant"), _CONTENT_START])
    return prompt


def _list_blocks(content: str | list[Json]) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _add_block(prompt: TokenizedPrompt, texts: Sequence[str], block: Json) -> None:
    for text in texts:
        prompt.tokens.extend(_encode_text(text))
    prompt.block_ends.append(len(prompt.tokens))
    if "cache_control" in block:
        prompt.breakpoints.append(len(prompt.tokens))


def _look_back(block_ends: list[int], breakpoint_offset: int) -> list[int]:
    index = block_ends.index(breakpoint_offset)
    return block_ends[max(0, index - LOOKBACK_BLOCKS) : index + 1]


def _hash_prefixes(prompt: Sequence[int], lengths: Sequence[int]) -> Iterator[bytes]:
    """Yield a hash of the prompt's prefix of each length; the lengths are in ascending order."""
    tokens = array("i", prompt)
    digest, start = blake2b(digest_size=16), 0
    for length in lengths:
        digest.update(tokens[start:length].tobytes())
        start = length
        yield digest.copy().digest()


def _encode_role(role: str) -> int:
    return -10 - ["system", "developer", "user", "assistant", "tool", "function"].index(role)


@lru_cache(maxsize=100_000)
def _encode_text(text: str) -> list[int]:
    offline.use_bundled_files()
    encoding, size = tiktoken.get_encoding(FALLBACK_ENCODING), MAX_ENCODE_CHARACTERS
    pieces = (text[start : start + size] for start in range(0, len(text), size))
    return [token for piece in pieces for token in encoding.encode_ordinary(piece)]
