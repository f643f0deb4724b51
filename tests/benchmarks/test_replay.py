"""The benchmark's figures, held against what the proxy itself counts; and that it is what it says it is."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from clara_proxy.benchmarks import replay
from clara_proxy.benchmarks.replay import Sums
from clara_proxy.compression.engine import Engine
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands.demo.replay import conversations
from clara_proxy.proxy.shorten import Shortener
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.proxy.wires import chat
from clara_proxy.tests.conversations import Json
from clara_proxy.tests.proxy.inprocess import STYLES, InProcess

RUNS = list(replay.read(None))
RULES = replay.rules_of(Settings())


@pytest.fixture
def shortener(tmp_path: Path) -> Iterator[Shortener]:
    engine = Engine(workers=1, queue=10**6, cache_bytes=10**8)
    yield Shortener({"extract": engine}, Originals(tmp_path / "originals", 60))
    engine.close()


def measured(shortener: Shortener) -> dict[str, Sums]:
    return asyncio.run(replay.measure(RUNS, RULES, shortener))


def test_it_counts_what_the_proxy_counts(shortener: Shortener, tmp_path: Path) -> None:
    received = sent = 0
    with InProcess(tmp_path) as proxy:
        for run, one in zip(RUNS, conversations(), strict=True):
            body: Json = {"model": replay.MODEL, "tools": one.get("tools") or []}
            for index, message in enumerate(run.messages):
                if message["role"] == "assistant" and index:
                    turn = proxy.send(STYLES[1](body | {"messages": list(run.messages[:index])}), {})
                    received, sent = received + turn.row.tokens_received, sent + turn.row.tokens_sent
    sums = measured(shortener)[""]
    assert sums.received == received
    assert sums.sent == sent


def test_agents_add_up_to_all_of_them(shortener: Shortener) -> None:
    sums = measured(shortener)
    whole, parts = sums[""], [one for agent, one in sums.items() if agent]
    assert (whole.received, whole.sent, whole.lost) == (
        sum(one.received for one in parts),
        sum(one.sent for one in parts),
        sum(one.lost for one in parts),
    )
    assert whole.sent < whole.received
    assert 0 <= whole.lost < whole.used
    assert len(whole.shares) == len(RUNS)


def test_forwarding_everything_saves_and_loses_nothing() -> None:
    sums = Sums()
    for run in RUNS:
        texts = ["\n".join(chat.contents(message)) for message in run.messages]
        replay.add(sums, run, texts, Counter())
    assert (sums.received, sums.lost, sums.used > 0) == (sums.sent, 0, True)


def test_every_point_of_the_curve_has_a_name_of_its_own() -> None:
    points = list(replay.settings_of_the_curve(RULES))
    assert len({name for name, _ in points}) == len(points) == 2 * len(replay.RATIOS) * len(replay.LEAST)
