"""The benchmark's figures, held against what the proxy itself counts; and that it is what it says it is."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
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


@pytest.fixture
def shortener(tmp_path: Path) -> Iterator[ConversationCompressor]:
    engine = Engine(workers=1, queue_limit=10**6, cache_bytes=10**8)
    yield ConversationCompressor({"extract": engine}, Originals(tmp_path / "originals", 60))
    engine.close()


def measured(shortener: ConversationCompressor) -> dict[str, ReplayTotals]:
    return asyncio.run(replay.measure_runs(RUNS, RULES, shortener))


def test_it_counts_what_the_proxy_counts(shortener: ConversationCompressor, tmp_path: Path) -> None:
    received = sent = 0
    with InProcessProxy(tmp_path) as proxy:
        for run, one in zip(RUNS, read_conversations(), strict=True):
            body: Json = {"model": replay.MODEL, "tools": one.get("tools") or []}
            for index, message in enumerate(run.messages):
                if message["role"] == "assistant" and index:
                    turn = proxy.send(JSON_STYLES[1](body | {"messages": list(run.messages[:index])}), {})
                    received, sent = received + turn.row.tokens_received, sent + turn.row.tokens_sent
    sums = measured(shortener)[""]
    assert sums.received == received
    assert sums.sent == sent


def test_agents_add_up_to_all_of_them(shortener: ConversationCompressor) -> None:
    sums = measured(shortener)
    whole, parts = sums[""], [one for agent, one in sums.items() if agent]
    assert (whole.received, whole.sent, whole.lost_spans) == (
        sum(one.received for one in parts),
        sum(one.sent for one in parts),
        sum(one.lost_spans for one in parts),
    )
    assert whole.sent < whole.received
    assert 0 <= whole.lost_spans < whole.used_spans
    assert len(whole.saved_shares) == len(RUNS)


def test_forwarding_everything_saves_and_loses_nothing() -> None:
    sums = ReplayTotals()
    for run in RUNS:
        texts = ["\n".join(chat.iter_content_texts(message)) for message in run.messages]
        replay.add_run(sums, run, [EpochStage(asked(run), texts)], Counter())
    assert (sums.received, sums.lost_spans, sums.used_spans > 0) == (sums.sent, 0, True)


def asked(run: RecordedRun) -> list[int]:
    """List the requests of a run by how many messages they hold."""
    return [index for index, message in enumerate(run.messages) if message["role"] == "assistant" and index]


def test_requests_are_parted_where_what_they_forward_changes(
    shortener: ConversationCompressor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staleness, "STALE_AFTER_TOKENS", dict.fromkeys(staleness.STALE_AFTER_TOKENS, 1000))
    monkeypatch.setattr(staleness, "DEFAULT_STALE_AFTER_TOKENS", 300)
    rules = replace(RULES, epoch_price=1.0)
    run = max(RUNS, key=lambda one: len(one.messages))
    stages, _ = asyncio.run(replay.replay_run(run, rules, shortener))
    assert len(stages) > 2
    assert [request for stage in stages for request in stage.request_lengths] == asked(run)
    for stage in stages:
        for request in stage.request_lengths:
            head = replace(run, messages=run.messages[: request + 1])
            last, _ = asyncio.run(replay.replay_run(head, rules, shortener))
            assert list(last[-1].forwarded_texts) == list(stage.forwarded_texts[:request])
    for before, after in pairwise(stages):
        assert list(before.forwarded_texts) != list(after.forwarded_texts[: len(before.forwarded_texts)])


def made(texts: list[str], used: list[Span]) -> RecordedRun:
    """A run in which the model and a tool take turns, one token a text and none for the rest."""
    roles = ["user", *(["assistant", "tool"] * len(texts))][: len(texts)]
    messages: list[Json] = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    turns = [role == "assistant" for role in roles]
    tokens = [replay.VOCABULARY.count(text) for text in texts]
    return RecordedRun("x", "y", messages, tokens, [sum(turns[at + 1 :]) for at in range(len(texts))], 0, used)


@pytest.mark.parametrize(("used", "is_lost"), [(3, False), (5, False), (7, True)])
def test_a_span_is_lost_when_the_request_before_its_use_had_it_no_more(used: int, *, is_lost: bool) -> None:
    texts = ["go", "look", "a needle_1", "yes", "b", "so", "c", "end"]
    run = made(texts, [Span("needle_1", 2, used)])
    stages = [EpochStage([1, 3, 5], texts[:5]), EpochStage([7], [*texts[:2], "a", *texts[3:7]])]
    sums = ReplayTotals()
    replay.add_run(sums, run, stages, Counter())
    assert (sums.used_spans, sums.lost_spans, sums.epochs) == (1, is_lost, 1)
    assert (sums.late_spans, sums.late_lost_spans) == (is_lost, is_lost)


def test_an_output_is_saved_in_the_requests_after_its_epoch_and_once_as_it_was_first_sent() -> None:
    texts = ["go", "look", "one two three four", "yes", "b", "so", "c", "end"]
    run = made(texts, [])
    stages = [EpochStage([1, 3, 5], texts[:5]), EpochStage([7], [*texts[:2], "one", *texts[3:7]])]
    sums = ReplayTotals()
    replay.add_run(sums, run, stages, Counter())
    assert sums.received - sums.sent == sums.output_tokens - sums.output_tokens_sent == 3
    assert sums.unique_output_tokens == sums.unique_output_tokens_sent
    json.dumps(sums.compute_shares())


def test_every_point_of_the_curve_has_a_name_of_its_own() -> None:
    points = list(replay.iter_curve_rules(RULES))
    assert (
        len({name for name, _ in points})
        == len(points)
        == len(replay.EPOCH_PRICES) + 2 * len(replay.RATIOS) * len(replay.MIN_TOKENS)
    )
