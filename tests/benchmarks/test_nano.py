"""The benchmark of the shipped clara-nano runs, ends with one line of JSON, and the weights are what the card says."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json
import sys

from clara_proxy.benchmarks import nano
from clara_proxy.compression.clara.checkpoint import DECODER, ENCODER, QUERY
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.train import judge

# Measured on the shipped weights (compression/clara/nano/README.md); below these something is broken, not unlucky.
FLOORS = {"seen values": 0.8, "unseen values": 0.7, "unseen phrasings": 0.65, "20 memories": 0.5}


@pytest.fixture(scope="module")
def shipped() -> Clara:
    return Clara.from_pretrained(nano.SHIPPED, base=nano.SHIPPED / "base", device="cpu")


def test_the_weights_are_small_and_whole(shipped: Clara) -> None:
    assert sum(path.stat().st_size for path in nano.SHIPPED.rglob("*") if path.is_file()) < 12_000_000
    assert set(shipped.model.adapters) == {ENCODER, DECODER, QUERY}
    assert (shipped.config.rate, shipped.config.memories) == (16, 8)


def test_the_example_is_answered(shipped: Clara) -> None:
    assert shipped.generate([nano.QUESTION], [nano.MEMORIES], 40) == ["hiking in national parks"]


@pytest.mark.parametrize("task", FLOORS)
def test_it_answers_what_it_never_saw(task: str, shipped: Clara) -> None:
    assert judge.answers(shipped, task, 60).share.value > FLOORS[task]


def test_it_finds_the_right_memory(shipped: Clara) -> None:
    assert judge.retrieval(shipped, 20).share.value > 0.8


def test_the_benchmark_ends_with_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nano", "--questions", "3"])
    nano.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(nano.AIMS) <= set(told["shares"])
    assert all(0 <= share <= 1 for share in told["shares"].values())
