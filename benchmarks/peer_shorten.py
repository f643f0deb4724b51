"""Compress passages with a peer in the peer's own environment: JSON lines in, JSON lines out.

The peer's interpreter runs this file (`python peer_shorten.py NAME`), so it does not import clara-proxy. An input line
has the `text`, the `question`, and the `share` of tokens to keep; peers without such an option ignore the share. An
output line has the compressed `text`, the `seconds` of the call, and an `error` if the peer raised one. The first
output line has the peer's `version` and its `missing` parts.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from time import perf_counter
from typing import Any, NamedTuple

MODEL = "gpt-4"  # known to all peers; both sides count tokens with its vocabulary
Messages = list[dict[str, Any]]
Compress = Callable[[Messages, float], Messages]


class Peer(NamedTuple):
    """A peer's distribution name and its loader, which returns the compressor and a description of missing parts."""

    distribution: str
    load_compressor: Callable[[], tuple[Compress, str]]


def build_conversation(text: str, question: str) -> Messages:
    """Return a conversation with the question as the user's message and the passage as a tool's output."""
    call = {"id": "call_1", "type": "function", "function": {"name": "fetch", "arguments": "{}"}}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
    ]


def _load_headroom() -> tuple[Compress, str]:
    """Load `headroom.compress` without its protection of the newest messages, which would exclude the passage."""
    compress = import_module("headroom").compress
    available = import_module("headroom.transforms.kompress_compressor").is_kompress_available()
    missing = "its text model (Kompress) needs a download" + ("" if available else " and packages beyond [proxy]")
    return lambda messages, _: compress(messages, model=MODEL, protect_recent=0).messages, missing


def _load_litellm() -> tuple[Compress, str]:
    """Load `litellm.compress` with a trigger of 0 tokens; its target counts the question, which is never compressed."""
    litellm = import_module("litellm")

    def compress(messages: Messages, share: float) -> Messages:
        sizes = [litellm.token_counter(model=MODEL, text=message["content"]) for message in messages]
        target = sum(sizes[:-1]) + int(share * sizes[-1])
        reply = litellm.compress(messages, model=MODEL, compression_trigger=0, compression_target=target)
        compressed: Messages = reply["messages"]
        return compressed

    return compress, "its embedding scores need a provider"


def _load_kompact() -> tuple[Compress, str]:
    """Load kompact's pipeline, with a new configuration for each request because a run disables parts permanently."""
    config, parser = import_module("kompact.config"), import_module("kompact.parser.messages")
    run, openai = import_module("kompact.transforms.pipeline").run, import_module("kompact.types").Provider.OPENAI

    def compress(messages: Messages, _: float) -> Messages:
        request = parser.parse_request({"model": MODEL, "messages": messages}, openai)
        compressed: Messages = parser.serialize_request(run(request, config.KompactConfig()).request)["messages"]
        return compressed

    return compress, ""


PEERS = {
    "headroom": Peer("headroom-ai", _load_headroom),
    "litellm": Peer("litellm", _load_litellm),
    "kompact": Peer("kompact", _load_kompact),
}


def answer_request(compress: Compress, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one input line. If the peer raises, it has the original text and the error's class name."""
    messages = build_conversation(request["text"], request["question"])
    start = perf_counter()
    try:
        compressed = compress(messages, request["share"])
    except Exception as error:  # noqa: BLE001  part of the answer
        return {"text": request["text"], "seconds": perf_counter() - start, "error": type(error).__name__}
    seconds = perf_counter() - start
    outputs = [message["content"] for message in compressed if message["role"] == "tool"]
    return {"text": outputs[0] if outputs else "", "seconds": seconds}


def main() -> None:
    """Answer each input line. Output of the peer's own code goes to stderr."""
    out, sys.stdout = sys.stdout, sys.stderr
    peer = PEERS[sys.argv[1]]
    compress, missing = peer.load_compressor()
    answer_request(compress, {"text": "nothing\n" * 500, "question": "warm up", "share": 0.5})
    print(json.dumps({"version": metadata.version(peer.distribution), "missing": missing}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer_request(compress, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
