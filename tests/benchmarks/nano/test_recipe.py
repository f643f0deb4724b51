"""The recipe in small: a short run beats guessing by what it reads, resumes, and what it writes can be asked."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import math
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import fmean

import torch

from clara_proxy.compression.clara.base import Shape
from clara_proxy.compression.clara.checkpoint import DECODER, ENCODER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.tokens import Layout, Vocabulary
from clara_proxy.compression.clara.train import curriculum, judge, nano, objective, packed, wordpieces
from clara_proxy.compression.clara.train.command import train_nano
from clara_proxy.compression.clara.train.facts import Restatement
from clara_proxy.compression.clara.train.network import Network

STEPS = 6200  # of which only the first few are run
COURSE = round(nano.COURSE * STEPS / nano.STEPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small tokenizer already in it, so that runs are quick."""
    made = tmp_path_factory.mktemp("nano")
    (made / "tokenizer.json").write_text(wordpieces.train(lines=1500, size=900))
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def shape(vocabulary: int) -> Shape:
        return Shape(96, 2, 3, 3, 32, 192, vocabulary, 1e-5, 10000.0, 2048, (2,))

    monkeypatch.setattr(nano, "shape", shape)


def copies(step: int) -> list[Restatement]:
    return curriculum.lesson(42, step, COURSE).copies


def guessing(vocabulary: Vocabulary, steps: range) -> float:
    """Return the loss of the best guess that knows how often each piece occurs, but not the document."""
    counts: Counter[int] = Counter()
    for step in steps:
        for copy in copies(step):
            counts.update([*vocabulary.text(f" {copy.target}"), vocabulary.eos])
    return -sum(count / counts.total() * math.log(count / counts.total()) for count in counts.values())


def loss(network: Network, vocabulary: Vocabulary, steps: range, neighbour: int) -> float:
    """Return the loss of copying lessons whose memories are those of the row so many places on."""
    found: list[float] = []
    for step in steps:
        right = copies(step)
        read = [*right[neighbour:], *right[:neighbour]]
        rows = [own._replace(document=other.document) for own, other in zip(right, read, strict=True)]
        batch = packed.restatements(vocabulary, rows, [0] * len(rows), nano.LIMIT)
        with torch.no_grad():
            memories = objective.encode(network, batch.documents, network.weights(ENCODER))
            found.append(float(objective.answer_loss(network, batch, memories, network.weights(DECODER))[0]))
    return fmean(found)


def test_a_short_run_reads_its_memories_and_beats_guessing(folder: Path, small: None) -> None:
    steps = int(COURSE * 0.04)
    trainer, network, tokenizer = nano.trainer(folder, STEPS)
    assert [record.step for record in trainer.run(steps)][-1] == steps
    vocabulary = Vocabulary(tokenizer, Layout(nano.LIMIT // nano.RATE))
    unseen = range(steps, steps + 8)
    learned = loss(network, vocabulary, unseen, 0)
    assert learned < guessing(vocabulary, unseen)
    assert learned < loss(network, vocabulary, unseen, 1) - 0.5  # it is the memory that tells
    written = nano.export(network, tokenizer, folder / "out")
    clara = Clara.from_pretrained(written, base=written / "base")
    judged = judge.answers(clara, "seen values", 6)
    assert judged.share.asked == 6
    assert sum(share.asked for share in judged.kinds.values()) == 6


def test_resuming_a_run_is_not_stopping_it(tmp_path: Path, folder: Path, small: None) -> None:
    curves: list[list[float]] = []
    for stops in ((8,), (3, 8)):
        curve: list[float] = []
        run = tmp_path / str(len(stops))
        run.mkdir()
        (run / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
        for stop in stops:
            trainer, _, _ = nano.trainer(run, STEPS)
            trainer.resume()
            curve.extend(record.figures["copy"] for record in trainer.run(stop))
        curves.append(curve)
    assert curves[0] == curves[1]


def test_what_is_learned_further_leaves_the_base_as_it_is(tmp_path: Path, folder: Path, small: None) -> None:
    _, network, tokenizer = nano.trainer(folder, STEPS)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    further = nano.further_trainer(network, tokenizer, tmp_path, 20)
    assert [record.step for record in further.run(2)] == [1, 2]
    changed = {
        name.split(".")[0] for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert changed == {"adapters", "embed", "head"}
    lessons = [curriculum.lesson(1042, step, 20, curriculum.FURTHER) for step in range(12)]
    assert all(lesson.episodes for lesson in lessons)  # from the first step on
    assert any(lesson.search for lesson in lessons)


def test_one_command_makes_both_rates(
    tmp_path: Path, folder: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    monkeypatch.setattr(nano, "calibrate", partial(nano.calibrate, count=1))
    said: list[int] = []
    written = train_nano(tmp_path, 5, 7, lambda record: said.append(record.step))
    assert said == [1, 2, 3, 4, 5, 1, 2, 1, 1, 1]
    for rate in (nano.RATE, nano.FINE_RATE):
        clara = Clara.from_pretrained(written / f"compression-{rate}", base=written / "base")
        assert clara.config.abstention is not None
        assert clara.compress(["User likes hiking."]).vectors.shape[1] == nano.LIMIT // rate
    assert (tmp_path / "further" / "log.jsonl").exists()


def test_more_memory_tokens_begin_as_the_few_did(folder: Path, small: None) -> None:
    _, network, tokenizer = nano.trainer(folder, STEPS)
    few, many = (Vocabulary(tokenizer, Layout(nano.LIMIT // rate)) for rate in (nano.RATE, nano.FINE_RATE))
    wide = nano.widened(network, few, many)
    texts = ["User likes hiking in national parks.", "The code of the safe of Ben is 4471."]
    with torch.no_grad():
        made = [
            objective.encode(each, packed.rows(vocabulary, texts, nano.LIMIT), each.weights(ENCODER)).float()
            for each, vocabulary in ((network, few), (wide, many))
        ]
    assert made[1].shape[1] == 4 * made[0].shape[1]
    assert torch.allclose(made[0], made[1][:, : made[0].shape[1]], atol=0.05)  # computed in bfloat16
    for name in ("enc", "sep", "eos"):
        row = network.embed[getattr(few, name)]
        assert torch.equal(row, wide.embed[getattr(many, name)])


def test_the_shipped_shape_fits_its_format() -> None:
    shape = nano.shape(3000)
    assert shape.hidden == shape.heads * shape.head_dim
    assert shape.positions >= nano.LIMIT + 3 + nano.LIMIT // nano.RATE
