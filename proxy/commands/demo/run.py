"""The demonstration: real agent conversations, turn by turn, through a running proxy, with the real `openai` client.

The upstream is a script that says what the agent's model said then, so every answer must come back as it was. What was
forwarded is looked at as bytes: the earlier messages of a conversation must never change (law 1).
"""

import asyncio
import gzip
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from json import JSONDecoder
from pathlib import Path
from typing import Any, cast
from urllib import error, request

import orjson
from openai import OpenAI
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ....config.settings import Settings
from ...app import create_app
from ...protocols.json_types import Json
from ...reports import savings
from .. import serve
from .scripted_upstream import ScriptedUpstream

SAMPLE_FILE = "conversations.jsonl.gz"
MODEL = "gpt-4o"
MEMORIES = ["User likes hiking in national parks.", "User works as a software engineer.", "User has a dog named Max."]
QUESTION = "What outdoor activities does the user enjoy?"
_NO_TORCH_NOTE = "\nWith the extra [clara] installed, clara-nano answers questions about short memories, too."


@dataclass(slots=True)
class ReplayResult:
    """What a conversation's replay showed. `received` and `sent` are tokens, summed over its turns."""

    name: str
    turns: int = 0
    received: int = 0
    sent: int = 0
    different_answers: int = 0
    prefix_breaks: int = 0
    structure_changes: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])


def read_conversations(file: Path | None = None) -> Iterator[Json]:
    """Yield recorded conversations: `id`, `agent`, `messages`, `tools`; the bundled sample unless told otherwise."""
    packed = file.read_bytes() if file else Path(__file__).with_name(SAMPLE_FILE).read_bytes()
    for line in gzip.decompress(packed).splitlines():
        yield orjson.loads(line)


def run_demo(max_turns: int = 0) -> int:
    """Replay the bundled conversations and print what happened; returns an exit status."""
    console = Console()
    script = RecordedScript()
    upstream = ScriptedUpstream(script)
    folder = Path(tempfile.mkdtemp(prefix="clara-proxy-demo-"))
    with serve.run_in_thread(upstream) as upstream_url:
        own: dict[str, Any] = {"data_dir": folder, "ledger_url": None, "originals_url": None, "model": None}
        settings = Settings(upstream_base_url=f"{upstream_url}/v1", log_level="warning", **own)
        with serve.run_in_thread(create_app(settings)) as url:
            client = OpenAI(base_url=f"{url}/v1", api_key="demo")
            replayed = [
                replay_conversation(client, one, script, upstream, max_turns=max_turns) for one in read_conversations()
            ]
            client.close()
            remembered = _ask_nano(url)
    console.print(_build_table(replayed))
    told = savings.render_savings(
        folder, "1d", "project", "table", width=console.width if console.is_terminal else None
    )
    console.print(asyncio.run(told), markup=False, soft_wrap=True)
    _print_explanation(console, replayed, folder)
    console.print(remembered, markup=False, soft_wrap=True)
    return 1 if any(one.prefix_breaks or one.different_answers or one.structure_changes for one in replayed) else 0


def _ask_nano(url: str) -> str:
    """Ask the CLaRa that comes with the package about three memories, and tell what it said; without torch, nothing."""
    if find_spec("torch") is None:
        return _NO_TORCH_NOTE
    asked = request.Request(f"{url}/compress", orjson.dumps({"memories": MEMORIES, "query": QUESTION}))  # noqa: S310
    said: Json = {}
    try:
        for _ in range(2):  # the first one loads the model
            with request.urlopen(asked, timeout=60) as reply:  # noqa: S310 - our own address
                said = orjson.loads(reply.read())
    except error.HTTPError:
        return _NO_TORCH_NOTE
    return (
        f'\nclara-nano, asked "{QUESTION}" of {len(MEMORIES)} memories ({said["original_tokens"]} tokens read as '
        f'{said["compressed_tokens"]} memory tokens): "{said["answer"]}", in {said["latency_ms"]:.0f} ms.'
    )


class RecordedScript:
    """Says what the model of the recorded conversation said at this point."""

    def __init__(self) -> None:
        self.messages: list[Json] = []

    def __call__(self, messages: list[Json]) -> Json:
        """Return the recorded message that followed these."""
        return self.messages[len(messages)]


def replay_conversation(
    client: OpenAI, conversation: Json, script: RecordedScript, upstream: ScriptedUpstream, *, max_turns: int = 0
) -> ReplayResult:
    """Send a conversation turn by turn, streamed, and compare what came and what went."""
    messages: list[Json] = conversation["messages"]
    script.messages = messages
    shown = ReplayResult(str(conversation["agent"]))
    forwarded = b"["
    asked = [index for index, message in enumerate(messages) if message["role"] == "assistant" and index]
    for index in track(asked[: max_turns or None], description=f"{shown.name:20}", transient=True):
        answer = _send_turn(client, conversation, messages[:index], shown)
        shown.turns += 1
        shown.different_answers += not is_same_answer(answer, messages[index])
        arrived = extract_raw_messages(upstream.bodies[-1])
        shown.prefix_breaks += not arrived.startswith(forwarded)
        shown.structure_changes += not is_structure_kept(messages[:index], orjson.loads(arrived))
        forwarded = arrived[:-1]
    return shown


def _send_turn(client: OpenAI, conversation: Json, messages: list[Json], shown: ReplayResult) -> Json:
    """Ask for the next message, streamed; returns it put together again."""
    labels = {"x-clara-project": shown.name, "x-clara-session": str(conversation["id"])}
    tools: list[Json] = conversation.get("tools") or []
    more: dict[str, Any] = {"tools": tools} if tools else {}
    content: list[str] = []
    calls: dict[int, Json] = {}
    stream = client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=cast("Any", messages), stream=True, extra_headers=labels, **more
    )
    with stream as response:
        shown.received += int(response.headers["x-clara-tokens-before"])
        shown.sent += int(response.headers["x-clara-tokens-after"])
        shown.reasons.update(_parse_skip_reasons(response.headers["x-clara-skipped"]))
        for chunk in cast("Any", response.parse()):
            delta = chunk.choices[0].delta
            content.append(delta.content or "")
            parts: list[Any] = delta.tool_calls or []
            for part in parts:
                call = calls.setdefault(part.index, {"id": "", "name": "", "arguments": ""})
                call["id"] += part.id or ""
                call["name"] += part.function.name or ""
                call["arguments"] += part.function.arguments or ""
    return {"content": "".join(content), "calls": list(calls.values())}


def _parse_skip_reasons(header: str) -> dict[str, int]:
    return {name: int(count) for name, _, count in (part.strip().partition("=") for part in header.split(",")) if name}


def is_same_answer(answer: Json, recorded: Json) -> bool:
    """Say whether an answer is what the recording says: text, calls, ids, names and arguments."""
    made: list[Json] = recorded.get("tool_calls") or []
    calls = [
        {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in made
    ]
    return bool(answer["content"] == (recorded.get("content") or "") and answer["calls"] == calls)


def extract_raw_messages(body: bytes) -> bytes:
    """Return the bytes of the `messages` array of a request body."""
    text = body.decode()
    start = text.index('"messages":') + len('"messages":')
    start += len(text[start:]) - len(text[start:].lstrip())
    _, end = JSONDecoder().raw_decode(text, start)
    return text[start:end].encode()


def is_structure_kept(before: list[Json], after: list[Json]) -> bool:
    """Say whether only contents differ: roles, order, number, ids, calls and all other fields are the same (law 5)."""
    bare = [[{**message, "content": None} for message in messages] for messages in (before, after)]
    untouched = all(
        one["content"] == other["content"]
        for one, other in zip(before, after, strict=False)
        if one["role"] in ("system", "developer")
    )
    return bare[0] == bare[1] and untouched


def _build_table(replayed: list[ReplayResult]) -> Table:
    title = "Real agent conversations, replayed turn by turn through the proxy (tokens)"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("agent", "turns", "received", "sent", "saved", "breaks", "changed"):
        table.add_column(name, justify="left" if name == "agent" else "right", no_wrap=True)
    for one in replayed:
        saved = f"{100 * (1 - one.sent / max(1, one.received)):.1f} %"
        counts = [str(one.turns), f"{one.received:,}", f"{one.sent:,}", saved]
        table.add_row(one.name, *counts, str(one.prefix_breaks), str(one.different_answers))
    return table


def _print_explanation(console: Console, replayed: list[ReplayResult], folder: Path) -> None:
    console.print(
        "breaks: earlier messages whose forwarded bytes changed; changed: answers that came back different.\n"
    )
    reasons = sum((one.reasons for one in replayed), Counter[str]())
    console.print("Passages left alone, counted once a turn, and why:")
    for reason, count in reasons.most_common():
        console.print(f"  {count:6,}  {reason}")
    altered = sum(one.structure_changes for one in replayed)
    console.print(f"Requests whose roles, order, ids, calls or system text were altered: {altered}")
    console.print(f"The ledger: clara-proxy report --data-dir {folder} --by tool", soft_wrap=True)
