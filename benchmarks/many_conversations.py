"""Show that memory stays bounded over many distinct conversations: requests through the pipeline, without HTTP.

    python -m clara_proxy.benchmarks.many_conversations [--conversations 100000] [--messages 40]

Each conversation has two turns, with text that is parsed, counted, planned and remembered; its first body has
`--messages` messages of some 1 KB. The table shows the resident memory of the process, the estimated sizes of the
remembered conversations and of the known bodies, and the processor time a request. The last line is JSON.
"""

import argparse
import asyncio
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from ..compression import memo
from ..config.settings import Settings
from ..proxy.app import create_app
from ..proxy.http import request_options
from ..proxy.http.request_context import RequestContext
from ..proxy.pipeline import rewrite
from ..proxy.pipeline.rewrite import BodyRewriter
from ..proxy.protocols import chat
from ..proxy.protocols.known_bodies import KnownBodies
from .load import NONCE, SMALL, build_chat

OWNERS = 100
SAMPLES = 10


class Sample(NamedTuple):
    """The state after some conversations: MB of memory, remembered and of known bodies, and microseconds a request."""

    conversations: int
    rss_mb: float
    remembered_mb: float
    bodies_mb: float
    cpu_us: float


def _read_rss_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def _build_turns(number: int, messages: int) -> list[bytes]:
    """Return the bodies of the two turns of a conversation, the first with so many messages."""
    body = orjson.loads(build_chat(SMALL, streamed=False).replace(NONCE.encode(), b"%08d" % number))
    question = body["messages"][-1]
    earlier = [question | {"content": f"{index}. {question['content']}"} for index in range(1, messages)]
    body["messages"][-1:] = [*earlier, question]
    first = orjson.dumps(body)
    answer = {"role": "assistant", "content": f"Answer {number}: see above."}
    body["messages"] += [answer, {"role": "user", "content": f"And then, number {number}?"}]
    return [first, orjson.dumps(body)]


async def _send(rewriter: BodyRewriter, bodies: KnownBodies, settings: Settings, raw: bytes, owner: str) -> None:
    options = request_options.build_default_options(settings)
    context = RequestContext("/v1/chat/completions", options, protocol="chat", model="gpt-4o")
    body = bodies.parse(owner, "messages", raw).body
    assert body is not None
    memo.owner.set(owner)
    await rewriter.rewrite_body(context, raw, body, owner)
    context.status = 200
    context.record_reply({"usage": {"prompt_tokens": 300, "completion_tokens": 20}})
    context.build_row()


async def measure_memory(conversations: int, messages: int) -> list[Sample]:
    """Send the conversations one after another, by several owners in turn; return samples at equal distances."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data_dir=Path(folder), model="none", log_level="error")
        app: Any = create_app(settings)
        async with app.router.lifespan_context(app):
            compressor = app.state.services.conversation_compressor
            rewriter, bodies = BodyRewriter(settings, compressor, adapter=chat.ADAPTER), KnownBodies()
            start = time.process_time()
            step = max(1, conversations // SAMPLES)
            for number in range(1, conversations + 1):
                for raw in _build_turns(number, messages):
                    await _send(rewriter, bodies, settings, raw, f"owner-{number % OWNERS}")
                if number % step == 0:
                    cpu_us = 1e6 * (time.process_time() - start) / step / 2
                    sizes = (compressor.memory.size / 2**20, bodies.size / 2**20)
                    samples.append(Sample(number, _read_rss_mb(), *sizes, cpu_us))
                    start = time.process_time()
    return samples


def main() -> None:
    """Measure, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=100_000)
    parser.add_argument("--messages", type=int, default=1, help="messages of some 1 KB in a conversation's first body")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    rewrite.MIN_REMEMBERED_WORK = 0  # short conversations are remembered, too
    samples = asyncio.run(measure_memory(options.conversations, options.messages))
    print(f"{'conversations':>14}{'RSS MB':>10}{'remembered MB':>16}{'bodies MB':>12}{'cpu us':>10}")
    for sample in samples:
        sizes = f"{sample.rss_mb:10.1f}{sample.remembered_mb:16.1f}{sample.bodies_mb:12.1f}"
        print(f"{sample.conversations:14}{sizes}{sample.cpu_us:10.0f}")
    print(json.dumps([sample._asdict() for sample in samples]))


if __name__ == "__main__":
    main()
