"""The figures of the replay benchmark agree with the counts of the proxy and with hand-made examples."""

import asyncio
import json
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from clara_proxy.benchmarks import replay
from clara_proxy.benchmarks.replay import EpochStage, RecordedRun, ReplayTotals
from clara_proxy.benchmarks.spans import Span
from clara_proxy.compression import staleness
from clara_proxy.compression.engine import Engine
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands.demo.run import read_conversations
from clara_proxy.proxy.pipeline.compress import ConversationCompressor
from clara_proxy.proxy.protocols import chat
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import JSON_STYLES, InProcessProxy

RUNS = list(replay.read_runs(None))
RULES = replay.build_rules(Settings())


@pytest.fixture(scope="module")
def compressor(tmp_path_factory: pytest.TempPathFactory) -> Generator[ConversationCompressor]:
    engine = Engine(workers=1, queue_limit=10**6, cache_bytes=10**8)
    yield ConversationCompressor({"extract": engine}, Originals(tmp_path_factory.mktemp("runs") / "originals", 60))
    engine.close()


@pytest.fixture(scope="module")
def totals(compressor: ConversationCompressor) -> dict[str, ReplayTotals]:
    """The totals of the bundled runs by agent, and of all of them under an empty name."""
    return asyncio.run(replay.measure_runs(RUNS, RULES, compressor))


def test_totals_agree_with_the_proxy(totals: dict[str, ReplayTotals], tmp_path: Path) -> None:
    received = sent = 0
    with InProcessProxy(tmp_path) as proxy:
        for run, conversation in zip(RUNS, read_conversations(), strict=True):
            body: Json = {"model": replay.MODEL, "tools": conversation.get("tools") or []}
            for index, message in enumerate(run.messages):
                if message["role"] == "assistant" and index:
                    row = proxy.send(JSON_STYLES[1](body | {"messages": list(run.messages[:index])}), {}).row
                    received, sent = received + row.tokens_received, sent + row.tokens_sent
    assert totals[""].received == received
    assert totals[""].sent == sent


def test_totals_of_agents_add_up(totals: dict[str, ReplayTotals]) -> None:
    total, parts = totals[""], [part for agent, part in totals.items() if agent]
    assert (total.received, total.sent, total.lost_spans) == (
        sum(part.received for part in parts),
        sum(part.sent for part in parts),
        sum(part.lost_spans for part in parts),
    )
    assert total.sent < total.received
    assert 0 <= total.lost_spans < total.used_spans
    assert len(total.saved_shares) == len(RUNS)


def test_forwarding_everything_saves_and_loses_nothing() -> None:
    totals = ReplayTotals()
    for run in RUNS:
        texts = ["\n".join(chat.iter_content_texts(message)) for message in run.messages]
        replay.add_run(totals, run, [EpochStage(list_request_lengths(run), texts)], Counter())
    assert (totals.received, totals.lost_spans, totals.used_spans > 0) == (totals.sent, 0, True)


def list_request_lengths(run: RecordedRun) -> list[int]:
    """Return the number of messages of each request of a run."""
    return [index for index, message in enumerate(run.messages) if message["role"] == "assistant" and index]


def test_stages_end_where_forwarded_texts_change(
    compressor: ConversationCompressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "STALE_AFTER_TOKENS", dict.fromkeys(staleness.STALE_AFTER_TOKENS, 1000))
    monkeypatch.setattr(staleness, "DEFAULT_STALE_AFTER_TOKENS", 300)
    rules = replace(RULES, epoch_price=1.0)
    run = max(RUNS, key=lambda item: len(item.messages))
    stages, _ = asyncio.run(replay.replay_run(run, rules, compressor))
    assert len(stages) > 2
    assert [length for stage in stages for length in stage.request_lengths] == list_request_lengths(run)
    for stage in stages:
        for length in stage.request_lengths:
            head = replace(run, messages=run.messages[: length + 1])
            head_stages, _ = asyncio.run(replay.replay_run(head, rules, compressor))
            assert list(head_stages[-1].forwarded_texts) == list(stage.forwarded_texts[:length])
    for before, after in pairwise(stages):
        assert list(before.forwarded_texts) != list(after.forwarded_texts[: len(before.forwarded_texts)])


def build_run(texts: list[str], used_spans: list[Span]) -> RecordedRun:
    """Return a run in which the model and a tool alternate, with one token for a text and none for the rest."""
    roles = ["user", *(["assistant", "tool"] * len(texts))][: len(texts)]
    messages: list[Json] = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    turns = [role == "assistant" for role in roles]
    tokens = [replay.VOCABULARY.count(text) for text in texts]
    turns_left = [sum(turns[index + 1 :]) for index in range(len(texts))]
    return RecordedRun("x", "y", messages, tokens, turns_left, 0, used_spans)


@pytest.mark.parametrize(("used_at", "is_lost"), [(3, False), (5, False), (7, True)])
def test_span_is_lost_if_the_request_before_its_use_lacks_it(used_at: int, *, is_lost: bool) -> None:
    texts = ["go", "look", "a needle_1", "yes", "b", "so", "c", "end"]
    run = build_run(texts, [Span("needle_1", 2, used_at)])
    stages = [EpochStage([1, 3, 5], texts[:5]), EpochStage([7], [*texts[:2], "a", *texts[3:7]])]
    totals = ReplayTotals()
    replay.add_run(totals, run, stages, Counter())
    assert (totals.used_spans, totals.lost_spans, totals.epochs) == (1, is_lost, 1)
    assert (totals.late_spans, totals.late_lost_spans) == (is_lost, is_lost)


def test_pruned_output_saves_tokens_in_later_requests_only() -> None:
    texts = ["go", "look", "one two three four", "yes", "b", "so", "c", "end"]
    run = build_run(texts, [])
    stages = [EpochStage([1, 3, 5], texts[:5]), EpochStage([7], [*texts[:2], "one", *texts[3:7]])]
    totals = ReplayTotals()
    replay.add_run(totals, run, stages, Counter())
    assert totals.received - totals.sent == totals.output_tokens - totals.output_tokens_sent == 3
    assert totals.unique_output_tokens == totals.unique_output_tokens_sent
    json.dumps(totals.compute_shares())


def test_every_point_of_the_curve_has_its_own_name() -> None:
    points = list(replay.iter_curve_rules(RULES))
    names = {name for name, _ in points}
    assert len(names) == len(points) == len(replay.EPOCH_PRICES) + 2 * len(replay.RATIOS) * len(replay.MIN_TOKENS)
