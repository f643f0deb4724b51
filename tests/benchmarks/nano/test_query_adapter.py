"""Seeking: what is right for a question and what is not told, what is learned, and where the mark is put."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json
from pathlib import Path

import torch
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.compression.clara.base import Shape
from clara_proxy.compression.clara.checkpoint import DECODER, ENCODER, QUERY, read_config
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.tokens import Layout, Vocabulary
from clara_proxy.compression.clara.train import nano, seeking, wordpieces
from clara_proxy.compression.clara.train.absence import tells
from clara_proxy.compression.clara.train.network import Network
from clara_proxy.compression.clara.train.seeking import parting

SHAPE = Shape(64, 2, 2, 2, 32, 96, 0, 1e-5, 10000.0, 2048, (2,))
SCORES = st.lists(st.integers(-1000, 1000).map(lambda score: score / 1000), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def tokenizer() -> str:
    return wordpieces.train(lines=1500, size=900)


@pytest.fixture
def network(tokenizer: str) -> Network:
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    size = Vocabulary(tokenizer, Layout(nano.LIMIT // nano.RATE)).size
    return Network(SHAPE._replace(vocabulary=size), 4, (DECODER, ENCODER, QUERY))


def test_what_answers_a_question_is_its_target_or_barred_and_nothing_else_is(tokenizer: str) -> None:
    vocabulary = Vocabulary(tokenizer, Layout(nano.LIMIT // nano.RATE))
    found = refused = 0
    for step in range(12):
        episodes = seeking.lesson(42, step)
        made = seeking.work(vocabulary, episodes, nano.LIMIT)
        about = [each for one in episodes for each in one.about]
        asked = [question for one in episodes for question in one.questions]
        assert made.search.barred.shape == (len(asked), len(about))
        for question, target, barred in zip(asked, made.search.targets, made.search.barred, strict=True):
            right = {place for place, each in enumerate(about) if any(tells(question.about, known) for known in each)}
            there = set[int]() if question.source is None else {int(target)}
            assert there <= right
            assert {place for place, out in enumerate(barred) if out} == right - there
            assert question.source is not None or int(target) == len(about)
            found, refused = found + len(there), refused + 1 - len(there)
    assert 0.4 < found / (found + refused) < 0.6


def test_only_the_query_adapter_learns_and_it_learns(tokenizer: str, network: Network, tmp_path: Path) -> None:
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    trainer = nano.seeker(network, tokenizer, tmp_path / "run", nano.RATE, 30)
    vocabulary = Vocabulary(tokenizer, Layout(nano.LIMIT // nano.RATE))
    unseen = seeking.work(vocabulary, seeking.lesson(43, 0), nano.LIMIT)

    def loss() -> float:
        with torch.no_grad():
            return float(trainer.model(unseen)["total"])

    begun = loss()
    assert [record.step for record in trainer.run()][-1] == 30
    trainer.settle()
    assert loss() < 0.8 * begun
    moved = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert moved
    assert all(QUERY in name for name in moved)


def test_the_mark_is_found_on_what_was_exported_and_written_beside_it(
    tokenizer: str, network: Network, tmp_path: Path
) -> None:
    written = nano.export(network, tokenizer, tmp_path / "out")
    assert read_config(written / "compression-16").abstention is None
    below = nano.calibrate(written, count=2)
    config = json.loads((written / "compression-16" / "config.json").read_text())
    assert config["abstention"] == {"below": below, "says": "not stated"}
    assert config["compr_rate"] == nano.RATE
    clara = Clara.from_pretrained(written, base=written / "base", device="cpu")
    assert clara.config.abstention == (below, "not stated")
    assert seeking.calibrated(clara, 42, 2) == below


@given(SCORES, SCORES)
def test_the_mark_parts_as_evenly_as_any_score_does(there: list[float], absent: list[float]) -> None:
    def unlike(mark: float) -> float:
        answered = sum(score >= mark for score in there) / len(there)
        return abs(answered - sum(score < mark for score in absent) / len(absent))

    mark = parting(there, absent)
    assert mark in {*there, *absent}
    assert all(unlike(mark) <= unlike(other) for other in {*there, *absent})


def test_where_scores_part_wholly_so_does_the_mark() -> None:
    assert parting([0.5, 0.6], [0.1, 0.2, 0.3]) == 0.5
