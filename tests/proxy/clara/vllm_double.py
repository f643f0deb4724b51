"""A double of a vLLM server: its routes and shapes are those that vLLM 0.32.0 (CPU build) answered on 2026-11-30.

This project's engine generates from the prompt embeddings, so its answers are those of the checkpoint.
`benchmarks/vllm.py` runs the contract tests against the real server.
"""

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import orjson
import torch
from torch import Tensor

from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.proxy.http.exchange import Receive, Scope, Send

MAX_POSITIONS = 4096


@dataclass
class VllmDouble:
    """The server as an ASGI application; `failures` holds the statuses of the next completions, 0 breaks a stream."""

    clara: Clara
    base_name: str = ""
    adapter: str = "decoder"
    applies_adapter: bool = True
    is_merged: bool = False
    failures: list[int] = field(default_factory=list[int])
    completions: int = 0
    aborted: int = 0
    running: int = 0
    most_running: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def __post_init__(self) -> None:
        config = self.clara.config
        self.base_name = self.base_name or f"clara-h{self._hidden_size}-m{config.memory_tokens}"

    @property
    def _hidden_size(self) -> int:
        return self.clara.model.base.config.hidden_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/health":
            await _send(send, 200, b"")
        elif scope["path"] == "/v1/models":
            await _send(send, 200, json.dumps({"object": "list", "data": self._cards()}).encode())
        else:
            await self._complete(await _read_body(receive), receive, send)

    def _cards(self) -> list[dict[str, Any]]:
        card = {"object": "model", "created": 1796001142, "owned_by": "vllm"}
        base = {"id": self.base_name, **card, "root": "./base", "parent": None, "max_model_len": MAX_POSITIONS}
        adapter = {"id": self.adapter, **card, "root": "./decoder", "parent": self.base_name, "max_model_len": None}
        if self.is_merged:
            adapter |= {"root": "./base", "parent": None, "max_model_len": MAX_POSITIONS}
        return [base, adapter]

    async def _complete(self, body: dict[str, Any], receive: Receive, send: Send) -> None:
        self.completions += 1
        self.bodies.append({key: value for key, value in body.items() if key != "prompt_embeds"})
        status = self.failures.pop(0) if self.failures else None
        if status:
            await _send_error(send, status, "EngineCore encountered an issue.")
            return
        embeddings = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
        if problem := self._validate(body, embeddings):
            await _send_error(send, *problem)
            return
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
        try:
            events = self._generate(body, embeddings, disconnect)
            await (_send_stream if body.get("stream") else _send_reply)(send, events, breaks=status == 0)
        finally:
            self.running -= 1
            disconnect.cancel()

    def _validate(self, body: dict[str, Any], embeddings: Tensor) -> tuple[int, str] | None:
        if body["model"] not in (self.adapter, self.base_name):
            return 404, f"The model `{body['model']}` does not exist."
        if embeddings.shape[1] != self._hidden_size:
            size = f"hidden_size {embeddings.shape[1]} does not match the model's hidden_size {self._hidden_size}"
            return 400, f"`prompt_embeds` {size}. (parameter=prompt_embeds)"
        if body["max_tokens"] < 1:
            return 400, "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
        if len(embeddings) + body["max_tokens"] > MAX_POSITIONS:
            return 400, f"This model's maximum context length is {MAX_POSITIONS} tokens."
        return None

    async def _generate(
        self, body: dict[str, Any], embeddings: Tensor, disconnect: "asyncio.Future[None]"
    ) -> AsyncGenerator[dict[str, Any]]:
        """Yield one choice per token, the end token included."""
        adapter = DECODER_ADAPTER if self.applies_adapter and body["model"] == self.adapter else ""
        model, eos_ids = self.clara.model, self.clara.model.base.config.eos_ids
        logits, cache = model.prefill([embeddings.to(model.base.dtype)], adapter)
        for index in range(body["max_tokens"]):
            if disconnect.done():
                self.aborted += 1
                return
            token = int(logits[0].argmax())
            finish = "stop" if token in eos_ids else "length" if index + 1 == body["max_tokens"] else None
            choice: dict[str, Any] = {"index": 0, "text": self.clara.tokenizer.decode([token])}
            choice["logprobs"] = _log_probabilities(logits[0], body["logprobs"]) if body.get("logprobs") else None
            yield choice | {"finish_reason": finish, "stop_reason": None, "token_ids": [token]}
            if finish is not None:
                return
            await asyncio.sleep(0)
            logits = model.step([token], cache, adapter)


def _log_probabilities(logits: Tensor, count: int) -> dict[str, Any]:
    values, ids = torch.log_softmax(logits.float(), dim=-1).topk(count)
    top = {f"token_id:{int(token)}": float(value) for token, value in zip(ids, values, strict=True)}
    name = f"token_id:{int(ids[0])}"
    return {"text_offset": [0], "token_logprobs": [float(values[0])], "tokens": [name], "top_logprobs": [top]}


async def _send_reply(send: Send, choices: AsyncGenerator[dict[str, Any]], *, breaks: bool) -> None:
    parts = [choice async for choice in choices]
    if breaks or not parts:
        return
    ids = [token for part in parts for token in part["token_ids"]]
    choice = {**parts[-1], "token_ids": ids, "logprobs": parts[0]["logprobs"], "text": ""}
    content = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "decoder", "choices": [choice]}
    await _send(send, 200, json.dumps(content).encode())


async def _send_stream(send: Send, choices: AsyncGenerator[dict[str, Any]], *, breaks: bool) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    count = 0
    async for choice in choices:
        event = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "decoder", "choices": [choice]}
        await send({"type": "http.response.body", "body": b"data: " + orjson.dumps(event) + b"\n\n", "more_body": True})
        count += 1
        if breaks and count == 2:
            error = {"error": {"message": "EngineCore died", "type": "InternalServerError", "param": None, "code": 500}}
            await send({"type": "http.response.body", "body": b"data: " + orjson.dumps(error) + b"\n\n"})
            return
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _send_error(send: Send, status: int, message: str) -> None:
    kinds = {400: "BadRequestError", 404: "NotFoundError"}
    error = {"message": message, "type": kinds.get(status, "InternalServerError"), "param": None, "code": status}
    await _send(send, status, json.dumps({"error": error}).encode())


async def _send(send: Send, status: int, content: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": content})


async def _read_body(receive: Receive) -> dict[str, Any]:
    content, more = b"", True
    while more:
        message = await receive()
        content += message.get("body", b"")
        more = message.get("more_body", False)
    body: dict[str, Any] = orjson.loads(content)
    return body


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
