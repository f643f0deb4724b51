"""Compare the ledger's costs and savings with the bills of three upstream doubles.

    python -m clara_proxy.benchmarks.bill [FILE] [--every N] [--scenes NAMES]

Recorded conversations are sent turn by turn through two running proxies: one with the default settings, one in mode
`off`. Each proxy has its own billing upstream (`billing`). The table shows the two bills, the ledger's cost, the
difference between the two bills, and the ledger's saving. The last line is JSON.

Scenarios: `growing` (the provider's cache is warm at every turn), `idle` (the cache is cold at every fifth turn),
`expanding` (the model fetches an original back at every fourth turn), `epochs` (a conversation exceeds its share of the
context window, and older history is compressed, too), `shadow` (a fifth of the requests is checked by a second one),
and at Anthropic `compacting` (the API compacts the conversation at every tenth turn) and `clearing` (the API clears old
tool results).
"""

import argparse
import asyncio
import json
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

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
from .anthropic_format import convert_body, convert_reply
from .billing import AnthropicUpstream, BillingUpstream, Gpt56Upstream, OpenAIUpstream

MODELS = {"openai": "gpt-4o", "openai-5.6": "gpt-5.6", "anthropic": "claude-sonnet-4-5"}
PATHS = {
    "openai": "/v1/chat/completions",
    "openai-5.6": "/v1/chat/completions",
    "anthropic": "/v1/messages",
}
UPSTREAMS: dict[str, type[BillingUpstream]] = {
    "openai": OpenAIUpstream,
    "openai-5.6": Gpt56Upstream,
    "anthropic": AnthropicUpstream,
}
SCENARIOS = ("growing", "idle", "expanding", "epochs", "shadow")
ANTHROPIC_SCENARIOS = ("compacting", "clearing")
COMPACT_INTERVAL = 10  # turns from one compaction by the provider to the next
SHADOW_RATE = 0.2
SUMMARY = "Summary of the conversation so far: the task, what was tried, and what is left to do. " * 8
IDLE_INTERVAL = 5  # turns from one cold cache to the next
EXPAND_INTERVAL = 4  # turns from one call of the hidden tool to the next
EPOCH_SHARE = 0.03  # share of the model's context window
_MARKER_PATTERN = re.compile(rf"{TOOL_NAME} ([0-9a-f]{{12}})")


class RunResult(NamedTuple):
    """One run: the upstream's charges and the ledger's cost and savings, in dollars."""

    charged: float
    ledger_cost: float
    ledger_saved: float
    requests: int
    cached_share: float
    fetched_back: int
    inconsistent_rows: int
    cache_misses: int
    expand_cost: float
    expand_tokens: int


class ScenarioResult(NamedTuple):
    """A scenario at one provider: a run with compression and a run without."""

    provider: str
    scenario: str
    compressed: RunResult
    uncompressed: RunResult

    @property
    def real_saving(self) -> float:
        """Return the difference between the two bills in dollars."""
        return self.uncompressed.charged - self.compressed.charged

    def serialize(self) -> dict[str, float | int | str]:
        """Return the scenario's figures under their JSON keys."""
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
            "cache_misses_ours": self.compressed.cache_misses,
            "expand_cost": round(self.compressed.expand_cost, 4),
            "expand_tokens": self.compressed.expand_tokens,
            "rows_that_do_not_add_up": self.compressed.inconsistent_rows + self.uncompressed.inconsistent_rows,
        }


class ScriptedModel:
    """A model that repeats the recorded messages.

    With `expands`, it calls the hidden tool before its message at every `EXPAND_INTERVAL`th turn, if there is a marker.
    With `compacts`, the API puts a summary before its message at every `COMPACT_INTERVAL`th turn.
    """

    def __init__(self, provider: str, *, expands: bool, compacts: bool = False) -> None:
        self.next_message: Json = {}
        self._is_anthropic, self._expands, self._compacts = provider == "anthropic", expands, compacts
        self._turns = self._expand_calls = 0

    def start_turn(self, message: Json) -> None:
        """Start the next turn, which `message` ends."""
        self.next_message, self._turns, self._expand_calls = message, self._turns + 1, 0
        if self._compacts and self._turns % COMPACT_INTERVAL == 0:
            message["compaction"] = {"type": "compaction", "content": SUMMARY, "signature": f"sig-{self._turns}"}

    def __call__(self, request: Json) -> Json:
        """Return the model's message in the provider's format."""
        marker = _MARKER_PATTERN.search(orjson.dumps(request["messages"]).decode()) if self._expands else None
        if marker is None or self._turns % EXPAND_INTERVAL or self._expand_calls:
            return convert_reply(self.next_message) if self._is_anthropic else self.next_message
        self._expand_calls += 1
        call = {"name": TOOL_NAME, "arguments": orjson.dumps({"id": marker[1], "lines": "1-40"}).decode()}
        calls = [{"id": f"call_back_{self._turns}", "type": "function", "function": call}]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        return convert_reply(message) if self._is_anthropic else message


def iter_turns(conversation: Json) -> Iterator[tuple[list[Json], Json]]:
    """Yield the messages of each request and the model's answer."""
    messages: list[Json] = conversation["messages"]
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and index:
            yield messages[:index], message


def compare_modes(provider: str, scenario: str, conversations: Sequence[Json], folder: Path) -> ScenarioResult:
    """Run a scenario with compression and without."""
    runs = [run_scenario(provider, scenario, conversations, folder / mode, mode) for mode in ("auto", "off")]
    return ScenarioResult(provider, scenario, *runs)


def run_scenario(provider: str, scenario: str, conversations: Sequence[Json], folder: Path, mode: str) -> RunResult:
    """Start a billing upstream and a proxy, and send the conversations through them."""
    price = prices.find_price(MODELS[provider]) or Price()
    model = ScriptedModel(provider, expands=scenario == "expanding", compacts=scenario == "compacting")
    upstream = UPSTREAMS[provider](model, price)
    overrides: dict[str, Any] = {"epoch_share": EPOCH_SHARE} if scenario == "epochs" else {}
    if scenario == "shadow" and mode != "off":
        overrides = {"shadow_rate": SHADOW_RATE}
    conversations = [  # the scripted model writes into their messages
        {**conversation, "messages": [dict(message) for message in conversation["messages"]]}
        for conversation in conversations
    ]
    overrides |= {"data_dir": folder, "model": "none", "ledger_url": None, "originals_url": None, "mode": mode}
    with serve.run_in_thread(upstream) as url:
        overrides |= {"upstream_base_url": f"{url}/v1", "anthropic_base_url": f"{url}/v1"}
        settings = Settings(**overrides, log_level="warning")
        with serve.run_in_thread(create_app(settings)) as proxy, httpx.Client(base_url=proxy, timeout=60) as client:
            _replay_conversations(provider, scenario, conversations, client, upstream)
            _wait_until_settled(upstream)
    return asyncio.run(_read_result(folder, upstream))


def _replay_conversations(
    provider: str, scenario: str, conversations: Sequence[Json], client: httpx.Client, upstream: BillingUpstream
) -> None:
    request_count, model = 0, cast("ScriptedModel", upstream.script)
    for conversation in conversations:
        for messages, answer in iter_turns(conversation):
            request_count += 1
            if scenario == "idle" and request_count % IDLE_INTERVAL == 0:
                upstream.clear_cache()
            model.start_turn(answer)
            body = {"model": MODELS[provider], "messages": messages, "tools": conversation.get("tools") or []}
            if provider == "anthropic":
                body = convert_body(body)
            if scenario == "clearing":
                body["context_management"] = {"edits": [{"type": "clear_tool_uses_20250919"}]}
            response = client.post(PATHS[provider], json=body, headers={"authorization": "Bearer sk-bill"})
            response.raise_for_status()


def _wait_until_settled(upstream: BillingUpstream) -> None:
    """Wait until the shadow checks have run."""
    count = -1
    while count != len(upstream.charges):
        count = len(upstream.charges)
        time.sleep(0.3)


async def _read_result(folder: Path, upstream: BillingUpstream) -> RunResult:
    ledger = Ledger(ledger_url(folder))
    await ledger.start()
    try:
        rows = [row async for row in ledger.iter_rows()]
    finally:
        await ledger.stop()
    charges = upstream.charges
    prompt_tokens = sum(sum(charge[:3]) for charge in charges)
    cached_share = sum(charge.cache_read for charge in charges) / max(1, prompt_tokens)
    fetched_back = sum(row.fetched_back_tokens for row in rows)
    inconsistent_rows = sum(bool(accounting.find_inconsistencies(row)) for row in rows)
    cost, saved = (_sum_column(rows, name) for name in ("cost", "saved_cost"))
    misses = sum(row.cache_miss == "ours" for row in rows)
    way_back = sum(row.expand_cost or 0.0 for row in rows), sum(row.expand_tokens for row in rows)
    return RunResult(
        upstream.total_dollars, cost, saved, len(rows), cached_share, fetched_back, inconsistent_rows, misses, *way_back
    )


def _sum_column(rows: Sequence[Row], name: str) -> float:
    values = [getattr(row, name) for row in rows]
    assert None not in values, f"a row has no {name}"
    return float(sum(values))


def _format_row(result: ScenarioResult) -> str:
    figures = result.serialize()
    keys = ("charged_without", "charged_with", "ledger_cost_with", "really_saved", "ledger_saved")
    cells = "".join(f"{figures[key]:>14.4f}" for key in keys)
    difference = result.compressed.ledger_saved - result.real_saving
    error = 100 * difference / result.uncompressed.charged if result.uncompressed.charged else 0.0
    return f"{result.provider:<11}{result.scenario:<11}{result.compressed.requests:>6}{cells}{error:>9.3f}"


def main() -> None:
    """Run all scenarios, print the table, and end with one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="conversations, gzip JSON lines (default: the bundled ones)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="replay only every Nth conversation")
    parser.add_argument(
        "--scenes", default=",".join(SCENARIOS + ANTHROPIC_SCENARIOS), help="scenarios, separated by commas"
    )
    parser.add_argument("--providers", default=",".join(MODELS), help="providers, separated by commas")
    options = parser.parse_args()
    conversations = list(islice(read_conversations(options.file), 0, None, options.every))
    headings = ("bill without", "bill with", "ledger cost", "really saved", "ledger saved")
    columns = "".join(f"{heading:>14}" for heading in headings)
    print(f"{'dollars':<11}{'scenario':<11}{'turns':>6}{columns}{'error %':>9}")
    results: list[ScenarioResult] = []
    for provider in options.providers.split(","):
        for scenario in options.scenes.split(","):
            if scenario in ANTHROPIC_SCENARIOS and provider != "anthropic":
                continue
            with tempfile.TemporaryDirectory() as folder:
                results.append(compare_modes(provider, scenario, conversations, Path(folder)))
            print(_format_row(results[-1]), flush=True)
    runs = [result.serialize() for result in results]
    print(json.dumps({"benchmark": "bill", "conversations": len(conversations), "runs": runs}))


if __name__ == "__main__":
    main()
