"""Shortens passages with one peer, within that peer's own environment: JSON lines in, JSON lines out.

Run as a file by the peer's interpreter (`python peer_shorten.py NAME`), so it imports nothing of ours. A line in says
the `text`, the `question` and the `share` of its tokens that should stay, which only a peer with such a knob heeds. A
line out says the `text` that the peer would forward, the `seconds` of its own call, and perhaps the `error`. The first
line out is a greeting with the version and what could not be had here.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from time import perf_counter
from typing import Any, NamedTuple

MODEL = "gpt-4"  # a name that all peers know; they count in its vocabulary, as we do
Messages = list[dict[str, Any]]
Shorten = Callable[[Messages, float], Messages]


class Peer(NamedTuple):
    """A peer: its distribution, and what makes its shortener and says what it has to do without."""

    distribution: str
    load_shortener: Callable[[], tuple[Shorten, str]]


def build_conversation(text: str, question: str) -> Messages:
    """Write a passage down as the output of a tool, and what it is for as the user's message before."""
    call = {"id": "call_1", "type": "function", "function": {"name": "fetch", "arguments": "{}"}}
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": text},
    ]


def _load_headroom() -> tuple[Shorten, str]:
    """Load headroom's own entry, with the newest messages not protected: else it would leave this one alone."""
    compress = import_module("headroom").compress
    available = import_module("headroom.transforms.kompress_compressor").is_kompress_available()
    missing = "its text model (Kompress) needs a download" + ("" if available else " and packages beyond [proxy]")
    return lambda messages, _: compress(messages, model=MODEL, protect_recent=0).messages, missing


def _load_litellm() -> tuple[Shorten, str]:
    """Load `litellm.compress`, told to begin at once; its target counts the question, which it never shortens."""
    litellm = import_module("litellm")

    def shorten(messages: Messages, share: float) -> Messages:
        sizes = [litellm.token_counter(model=MODEL, text=message["content"]) for message in messages]
        target = sum(sizes[:-1]) + int(share * sizes[-1])
        made: Messages = litellm.compress(messages, model=MODEL, compression_trigger=0, compression_target=target)[
            "messages"
        ]
        return made

    return shorten, "its embedding scores need a provider"


def _load_kompact() -> tuple[Shorten, str]:
    """Load kompact's pipeline with a fresh configuration a request: it switches parts of its own off for good."""
    config, parser = import_module("kompact.config"), import_module("kompact.parser.messages")
    run, openai = import_module("kompact.transforms.pipeline").run, import_module("kompact.types").Provider.OPENAI

    def shorten(messages: Messages, _: float) -> Messages:
        request = parser.parse_request({"model": MODEL, "messages": messages}, openai)
        made: Messages = parser.serialize_request(run(request, config.KompactConfig()).request)["messages"]
        return made

    return shorten, ""


PEERS = {
    "headroom": Peer("headroom-ai", _load_headroom),
    "litellm": Peer("litellm", _load_litellm),
    "kompact": Peer("kompact", _load_kompact),
}


def answer_request(shorten: Shorten, asked: dict[str, Any]) -> dict[str, Any]:
    """Shorten one passage; what a peer raises is its answer, because others still wait for theirs."""
    messages = build_conversation(asked["text"], asked["question"])
    began = perf_counter()
    try:
        made = shorten(messages, asked["share"])
    except Exception as error:  # noqa: BLE001  said in the answer
        return {"text": asked["text"], "seconds": perf_counter() - began, "error": type(error).__name__}
    seconds = perf_counter() - began
    left = [message["content"] for message in made if message["role"] == "tool"]
    return {"text": left[0] if left else "", "seconds": seconds}


def main() -> None:
    """Answer line by line until there are no more; what a peer prints goes to the errors."""
    out, sys.stdout = sys.stdout, sys.stderr
    peer = PEERS[sys.argv[1]]
    shorten, missing = peer.load_shortener()
    answer_request(shorten, {"text": "nothing\n" * 500, "question": "warm up", "share": 0.5})
    print(json.dumps({"version": metadata.version(peer.distribution), "missing": missing}), file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(answer_request(shorten, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
