"""Does the ledger agree with the bill? Recorded conversations, with and without compression, before a billing double.

    python -m clara_proxy.benchmarks.bill [FILE] [--every N] [--scenes NAMES]

Every conversation is sent turn by turn through a running proxy, once as it is by default and once in mode `off`, each
before a double of its own (`billing`). Told are what the doubles charged, what the ledgers say of that, what the ledger
says was saved, and what the difference of the two bills really is. The last line is JSON.

Scenes: `growing` (each turn finds the cache warm), `idle` (every fifth turn it is cold), `expanding` (the model has
something back now and then), `epochs` (old parts are shortened when a long conversation has gone on long enough).
"""

import argparse
import asyncio
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import orjson

from ..config import prices
from ..config.prices import Price
from ..config.settings import Settings
from ..proxy.app import create_app
from ..proxy.commands import serve
from ..proxy.commands.demo.run import read_conversations
from ..proxy.protocols.expand_call import TOOL_NAME
from ..proxy.protocols.json_types import Json
from ..proxy.stores import accounting
from ..proxy.stores.ledger import Ledger, ledger_url
from ..proxy.stores.ledger_row import Row
from .billing import AnthropicUpstream, BillingUpstream, OpenAIUpstream
from .blocks import convert_body, convert_reply

MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-4-5"}
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
SCENARIOS = ("growing", "idle", "expanding", "epochs")
IDLE_INTERVAL = 5  # every so many turns the cache is cold
EXPAND_INTERVAL = 4  # every so many turns the model has something back, if anything was left out
EPOCH_SHARE = 0.03  # of the model's window
_MARKER_PATTERN = re.compile(rf"{TOOL_NAME} ([0-9a-f]{{12}})")


class RunResult(NamedTuple):
    """One run: what the double charged, and what the ledger says of cost and savings, in dollars."""

    charged: float
    ledger_cost: float
    ledger_saved: float
    requests: int
    cached_share: float
    fetched_back: int
    inconsistent_rows: int


class ScenarioResult(NamedTuple):
    """A scene at one provider: a run with compression, one without, and what they differ by."""

    provider: str
    scenario: str
    compressed: RunResult
    uncompressed: RunResult

    @property
    def real_saving(self) -> float:
        """Return what the two bills really differ by, in dollars."""
        return self.uncompressed.charged - self.compressed.charged

    def serialize(self) -> dict[str, float | int | str]:
        """Return the scene's figures."""
        return {
            "provider": self.provider,
            "scene": self.scenario,
            "requests": self.compressed.requests,
            "charged_without": round(self.uncompressed.charged, 4),
            "charged_with": round(self.compressed.charged, 4),
            "ledger_cost_with": round(self.compressed.ledger_cost, 4),
            "ledger_cost_without": round(self.uncompressed.ledger_cost, 4),
            "really_saved": round(self.real_saving, 4),
            "ledger_saved": round(self.compressed.ledger_saved, 4),
            "ledger_saved_in_mode_off": round(self.uncompressed.ledger_saved, 4),
            "fetched_back": self.compressed.fetched_back,
            "cached_share_with": round(self.compressed.cached_share, 4),
            "cached_share_without": round(self.uncompressed.cached_share, 4),
            "rows_that_do_not_add_up": self.compressed.inconsistent_rows + self.uncompressed.inconsistent_rows,
        }


class ScriptedModel:
    """Says what the recorded model said next; with `expands`, it has something back first, every so many turns."""

    def __init__(self, provider: str, *, expands: bool) -> None:
        self.next_message: Json = {}
        self._provider, self._expands = provider, expands
        self._turns = self._expand_calls = 0

    def start_turn(self, message: Json) -> None:
        """Go on to the next turn, in which this is said."""
        self.next_message, self._turns, self._expand_calls = message, self._turns + 1, 0

    def __call__(self, request: Json) -> Json:
        """Return the model's message."""
        marker = _MARKER_PATTERN.search(orjson.dumps(request["messages"]).decode()) if self._expands else None
        if marker is None or self._turns % EXPAND_INTERVAL or self._expand_calls:
            return self.next_message if self._provider == "openai" else convert_reply(self.next_message)
        self._expand_calls += 1
        call = {"name": TOOL_NAME, "arguments": orjson.dumps({"id": marker[1], "lines": "1-40"}).decode()}
        calls = [{"id": f"call_back_{self._turns}", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        return message if self._provider == "openai" else convert_reply(message)


def iter_turns(conversation: Json) -> Iterator[tuple[list[Json], Json]]:
    """Yield what is sent at each turn, and what is answered."""
    listed: list[Json] = conversation["messages"]
    for index, message in enumerate(listed):
        if message["role"] == "assistant" and index:
            yield listed[:index], message


def compare_modes(provider: str, scene: str, recorded: Sequence[Json], folder: Path) -> ScenarioResult:
    """Run a scene with compression and without."""
    runs = [run_scenario(provider, scene, recorded, folder / mode, mode) for mode in ("auto", "off")]
    return ScenarioResult(provider, scene, *runs)


def run_scenario(provider: str, scene: str, recorded: Sequence[Json], folder: Path, mode: str) -> RunResult:
    """Replay conversations through a proxy of its own, before a double of its own."""
    price = prices.find_price(MODELS[provider]) or Price()
    model = ScriptedModel(provider, expands=scene == "expanding")
    upstream = (OpenAIUpstream if provider == "openai" else AnthropicUpstream)(model, price)
    own: dict[str, Any] = {"epoch_share": EPOCH_SHARE} if scene == "epochs" else {}
    own |= {"data_dir": folder, "model": "none", "ledger_url": None, "originals_url": None, "mode": mode}
    with serve.run_in_thread(upstream) as url:
        own |= {"upstream_base_url": f"{url}/v1", "anthropic_base_url": f"{url}/v1"}
        settings = Settings(**own, log_level="warning")
        with serve.run_in_thread(create_app(settings)) as proxy, httpx.Client(base_url=proxy, timeout=60) as client:
            _replay_conversations(provider, recorded, client, model, upstream if scene == "idle" else None)
    return asyncio.run(_read_result(folder, upstream))


def _replay_conversations(
    provider: str, recorded: Sequence[Json], client: httpx.Client, model: ScriptedModel, idle: BillingUpstream | None
) -> None:
    sent = 0
    for conversation in recorded:
        for listed, answer in iter_turns(conversation):
            sent += 1
            if idle is not None and sent % IDLE_INTERVAL == 0:
                idle.clear_cache()
            model.start_turn(answer)
            body = {"model": MODELS[provider], "messages": listed, "tools": conversation.get("tools") or []}
            body = body if provider == "openai" else convert_body(body)
            got = client.post(PATHS[provider], json=body, headers={"authorization": "Bearer sk-bill"})
            got.raise_for_status()


async def _read_result(folder: Path, upstream: BillingUpstream) -> RunResult:
    ledger = Ledger(ledger_url(folder))
    await ledger.start()
    try:
        rows = [row async for row in ledger.iter_rows()]
    finally:
        await ledger.stop()
    charges = upstream.charges
    cached = sum(charge.cache_read for charge in charges) / max(1, sum(sum(charge[:3]) for charge in charges))
    fetched_back = sum(row.fetched_back_tokens for row in rows)
    complaints = sum(bool(accounting.find_inconsistencies(row)) for row in rows)
    cost, saved = (_sum_column(rows, name) for name in ("cost", "saved_cost"))
    return RunResult(upstream.total_dollars, cost, saved, len(rows), cached, fetched_back, complaints)


def _sum_column(rows: Sequence[Row], name: str) -> float:
    figures = [getattr(row, name) for row in rows]
    assert None not in figures, f"a row has no {name}"
    return float(sum(figures))


def _format_row(one: ScenarioResult) -> str:
    figures = one.serialize()
    names = ("charged_without", "charged_with", "ledger_cost_with", "really_saved", "ledger_saved")
    cells = "".join(f"{figures[name]:>12.4f}" for name in names)
    off = (
        100 * (one.compressed.ledger_saved - one.real_saving) / one.uncompressed.charged
        if one.uncompressed.charged
        else 0.0
    )
    return f"{one.provider:<11}{one.scenario:<11}{one.compressed.requests:>6}{cells}{off:>9.3f}"


def main() -> None:
    """Run all scenes, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="conversations, gzip JSON lines (default: the bundled ones)")
    parser.add_argument("--every", type=int, default=1, help="replay every so manieth conversation only")
    parser.add_argument("--scenes", default=",".join(SCENARIOS), help="separated by commas")
    asked = parser.parse_args()
    recorded = list(islice(read_conversations(asked.file), 0, None, asked.every))
    heads = ("without", "with", "ledger with", "saved", "ledger saved")
    print(f"{'$':<11}{'scene':<11}{'turns':>6}{''.join(f'{head:>12}' for head in heads)}{'off %':>9}")
    found: list[ScenarioResult] = []
    for provider in MODELS:
        for scene in asked.scenes.split(","):
            with tempfile.TemporaryDirectory() as folder:
                found.append(compare_modes(provider, scene, recorded, Path(folder)))
            print(_format_row(found[-1]), flush=True)
    print(json.dumps({"benchmark": "bill", "conversations": len(recorded), "runs": [one.serialize() for one in found]}))


if __name__ == "__main__":
    main()
