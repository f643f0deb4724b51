"""The command `clara-proxy demo`: replays recorded agent conversations through a proxy with the `openai` client.

The upstream answers from the recording, so every answer must arrive unchanged. The forwarded bytes are compared as
well: the earlier messages of a conversation must never change (the prefix invariant). At the end it puts a folder of
notes into a vector store and asks a question.
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
from ...access.authentication import ANONYMOUS
from ...app import create_app
from ...memory.ingestion import Ingestion
from ...protocols.json_types import Json
from ...reports import ledger_report
from ...stores.memory_schema import ChunkHit
from ...stores.memory_store import open_memory
from .. import serve, vector_stores
from .scripted_upstream import ScriptedUpstream

SAMPLE_FILE = "conversations.jsonl.gz"
MODEL = "gpt-4o"
NOTES = {
    "hobbies.txt": "User likes hiking in national parks.",
    "work.txt": "User works as a software engineer for a shipping company in Rotterdam.",
    "pets.txt": "User has a dog named Max, who is four years old.",
}
QUESTION = "What outdoor activities does the user enjoy?"
_NO_TORCH_NOTE = "With the extra [clara] installed, clara-nano also answers it from these passages."


@dataclass(slots=True)
class ReplayResult:
    """The result of replaying a conversation; `received` and `sent` are tokens, summed over its turns."""

    name: str
    turns: int = 0
    received: int = 0
    sent: int = 0
    different_answers: int = 0
    prefix_breaks: int = 0
    structure_changes: int = 0
    reasons: Counter[str] = field(default_factory=Counter[str])


def read_conversations(file: Path | None = None) -> Iterator[Json]:
    """Yield recorded conversations (`id`, `agent`, `messages`, `tools`); by default those of the bundled sample."""
    compressed = file.read_bytes() if file else Path(__file__).with_name(SAMPLE_FILE).read_bytes()
    for line in gzip.decompress(compressed).splitlines():
        yield orjson.loads(line)


def run_demo(max_turns: int = 0) -> int:
    """Replay the bundled conversations and print the results; return 1 if an answer or a prefix changed, else 0."""
    console = Console()
    script = RecordedScript()
    upstream = ScriptedUpstream(script)
    folder = Path(tempfile.mkdtemp(prefix="clara-proxy-demo-"))
    with serve.run_in_thread(upstream) as upstream_url:
        stores: dict[str, Any] = {"data_dir": folder, "ledger_url": None, "originals_url": None, "model": None}
        settings = Settings(upstream_base_url=f"{upstream_url}/v1", log_level="warning", **stores)
        with serve.run_in_thread(create_app(settings)) as url:
            client = OpenAI(base_url=f"{url}/v1", api_key="demo")
            results = [
                replay_conversation(client, conversation, script, upstream, max_turns=max_turns)
                for conversation in read_conversations()
            ]
            client.close()
            passages = asyncio.run(_search_notes(folder))
            nano_answer = _ask_nano(url, [hit.text for hit in passages])
    console.print(_build_table(results))
    width = console.width if console.is_terminal else None
    report = asyncio.run(ledger_report.render_savings(folder, "1d", "project", "table", width=width))
    console.print(report, markup=False, soft_wrap=True)
    _print_explanation(console, results, folder)
    console.print(f'\n"{QUESTION}" asked to the {len(NOTES)} files in {folder / "notes"}:', soft_wrap=True)
    for number, hit in enumerate(passages, 1):
        console.print(f"  {vector_stores.format_source(number, hit)}: {hit.text}", markup=False, soft_wrap=True)
    console.print(nano_answer, markup=False, soft_wrap=True)
    console.print("Your own files: clara-proxy ingest FOLDER --store NAME; clara-proxy ask QUESTION --store NAME")
    has_changes = any(item.prefix_breaks or item.different_answers or item.structure_changes for item in results)
    return 1 if has_changes else 0


async def _search_notes(folder: Path) -> list[ChunkHit]:
    """Put a folder of notes into a vector store, and return its passages for the question, best first."""
    (folder / "notes").mkdir()
    for name, text in NOTES.items():
        (folder / "notes" / name).write_text(text, encoding="utf-8")
    async with open_memory(f"sqlite:///{folder / 'memory.sqlite3'}") as memory:
        store = await memory.create_store(ANONYMOUS, "notes")
        await Ingestion(memory, ANONYMOUS, store).run([folder / "notes"], prunes=False, on_progress=_ignore_progress)
        return await vector_stores.find_passages(memory, ANONYMOUS, "notes", QUESTION, len(NOTES))


def _ignore_progress(_done: int, _total: int, _name: str) -> None:
    pass


def _ask_nano(url: str, memories: list[str]) -> str:
    """Ask clara-nano about these memories and return its answer; without torch, return a note."""
    if find_spec("torch") is None:
        return _NO_TORCH_NOTE
    body = orjson.dumps({"memories": memories, "query": QUESTION})
    answer: Json = {}
    try:
        for _ in range(2):  # the first request loads the model
            with request.urlopen(request.Request(f"{url}/compress", body), timeout=60) as reply:  # noqa: S310
                answer = orjson.loads(reply.read())
    except error.HTTPError:
        return _NO_TORCH_NOTE
    return (
        f"clara-nano answered from these passages ({answer['original_tokens']} tokens as "
        f'{answer["compressed_tokens"]} memory tokens) in {answer["latency_ms"]:.0f} ms: "{answer["answer"]}"'
    )


class RecordedScript:
    """A script that answers with the recorded message of the model."""

    def __init__(self) -> None:
        self.messages: list[Json] = []

    def __call__(self, messages: list[Json]) -> Json:
        """Return the recorded message that followed these."""
        return self.messages[len(messages)]


def replay_conversation(
    client: OpenAI, conversation: Json, script: RecordedScript, upstream: ScriptedUpstream, *, max_turns: int = 0
) -> ReplayResult:
    """Send a conversation turn by turn, streamed, and compare the answers and the forwarded messages."""
    messages: list[Json] = conversation["messages"]
    script.messages = messages
    result = ReplayResult(str(conversation["agent"]))
    prefix = b"["
    turns = [index for index, message in enumerate(messages) if message["role"] == "assistant" and index]
    for index in track(turns[: max_turns or None], description=f"{result.name:20}", transient=True):
        answer = _send_turn(client, conversation, messages[:index], result)
        result.turns += 1
        result.different_answers += not is_same_answer(answer, messages[index])
        forwarded = extract_raw_messages(upstream.bodies[-1])
        result.prefix_breaks += not forwarded.startswith(prefix)
        result.structure_changes += not is_structure_kept(messages[:index], orjson.loads(forwarded))
        prefix = forwarded[:-1]
    return result


def _send_turn(client: OpenAI, conversation: Json, messages: list[Json], result: ReplayResult) -> Json:
    """Request the next message as a stream, add its token counts to the result, and return the joined message."""
    labels = {"x-clara-project": result.name, "x-clara-session": str(conversation["id"])}
    tools: list[Json] = conversation.get("tools") or []
    more: dict[str, Any] = {"tools": tools} if tools else {}
    content: list[str] = []
    calls: dict[int, Json] = {}
    stream = client.chat.completions.with_streaming_response.create(
        model=MODEL, messages=cast("Any", messages), stream=True, extra_headers=labels, **more
    )
    with stream as response:
        result.received += int(response.headers["x-clara-tokens-before"])
        result.sent += int(response.headers["x-clara-tokens-after"])
        result.reasons.update(_parse_skip_reasons(response.headers["x-clara-skipped"]))
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
    """Return True if an answer equals the recorded one: text, calls, ids, names and arguments."""
    recorded_calls: list[Json] = recorded.get("tool_calls") or []
    calls = [
        {"id": call["id"], "name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in recorded_calls
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
    """Return True if only contents of messages differ, and no system message (the structure invariant)."""
    without_content = [[{**message, "content": None} for message in messages] for messages in (before, after)]
    has_same_system = all(
        message["content"] == other["content"]
        for message, other in zip(before, after, strict=False)
        if message["role"] in ("system", "developer")
    )
    return without_content[0] == without_content[1] and has_same_system


def _build_table(results: list[ReplayResult]) -> Table:
    title = "Recorded agent conversations, replayed turn by turn through the proxy (tokens)"
    table = Table(title=title, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("agent", "turns", "received", "sent", "saved", "breaks", "changed"):
        table.add_column(name, justify="left" if name == "agent" else "right", no_wrap=True)
    for item in results:
        saved = f"{100 * (1 - item.sent / max(1, item.received)):.1f} %"
        counts = [str(item.turns), f"{item.received:,}", f"{item.sent:,}", saved]
        table.add_row(item.name, *counts, str(item.prefix_breaks), str(item.different_answers))
    return table


def _print_explanation(console: Console, results: list[ReplayResult], folder: Path) -> None:
    console.print("breaks: turns in which the bytes of earlier messages changed; changed: answers that changed.\n")
    reasons = sum((item.reasons for item in results), Counter[str]())
    console.print("Passages left unchanged, counted in every turn, by reason:")
    for reason, count in reasons.most_common():
        console.print(f"  {count:6,}  {reason}")
    altered = sum(item.structure_changes for item in results)
    console.print(f"Requests with altered roles, order, ids, calls or system texts: {altered}")
    console.print(f"More from the ledger: clara-proxy report --data-dir {folder} --by tool", soft_wrap=True)
