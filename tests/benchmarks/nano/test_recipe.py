"""clara-nano's recipe at a small size: a short run learns, resumes, and exports checkpoints that load."""

import math
from collections import Counter
from functools import partial
from pathlib import Path
from statistics import fmean

import pytest
import torch

from clara_proxy.benchmarks.nano import __main__, curriculum, episode_tensors, evaluate_nano, objective, recipe
from clara_proxy.benchmarks.nano.synthetic.episodes import Restatement
from clara_proxy.benchmarks.nano.train import train_nano
from clara_proxy.benchmarks.nano.train_tokenizer import train_tokenizer
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.decoder_config import DecoderConfig
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer
from clara_proxy.compression.clara.train.encoder_rows import make_encoder_rows
from clara_proxy.compression.clara.train.network import Network

STEPS = 6200  # only the first steps are run
SCHEDULE_STEPS = round(recipe.SCHEDULE_STEPS * STEPS / recipe.STEPS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a small tokenizer, which makes runs quick."""
    path = tmp_path_factory.mktemp("nano")
    (path / "tokenizer.json").write_text(train_tokenizer(lines=1500, size=900))
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_config(vocabulary_size: int) -> DecoderConfig:
        return DecoderConfig(96, 2, 3, 3, 32, 192, vocabulary_size, 1e-5, 10000.0, 2048, (2,))

    monkeypatch.setattr(recipe, "model_config", make_config)


def make_copies(step: int) -> list[Restatement]:
    return curriculum.make_lesson(42, step, SCHEDULE_STEPS).copies


def guessing_loss(tokenizer: ClaraTokenizer, steps: range) -> float:
    """Return the entropy of the copied tokens: the loss of the best guess that ignores the documents."""
    counts: Counter[int] = Counter()
    for step in steps:
        for copy in make_copies(step):
            counts.update([*tokenizer.encode(f" {copy.target}"), tokenizer.eos_id])
    return -sum(count / counts.total() * math.log(count / counts.total()) for count in counts.values())


def copying_loss(network: Network, tokenizer: ClaraTokenizer, steps: range, offset: int) -> float:
    """Return the loss of copying lessons; each row reads the memories of the row `offset` further on."""
    losses: list[float] = []
    for step in steps:
        copies = make_copies(step)
        sources = [*copies[offset:], *copies[:offset]]
        rows = [copy._replace(document=source.document) for copy, source in zip(copies, sources, strict=True)]
        batch = episode_tensors.pack_restatements(tokenizer, rows, [0] * len(rows), recipe.DOCUMENT_LIMIT)
        with torch.no_grad():
            memories = objective.encode(network, batch.documents, network.layer_weights(ENCODER_ADAPTER))
            losses.append(
                float(objective.answer_loss(network, batch, memories, network.layer_weights(DECODER_ADAPTER))[0])
            )
    return fmean(losses)


def test_a_short_run_reads_its_memories_and_beats_guessing(folder: Path, small: None) -> None:
    steps = int(SCHEDULE_STEPS * 0.04)
    trainer, network, tokenizer_json = recipe.make_main_trainer(folder, STEPS)
    assert [progress.step for progress in trainer.run(steps)][-1] == steps
    tokenizer = recipe.make_tokenizer(tokenizer_json)
    unseen = range(steps, steps + 8)
    loss = copying_loss(network, tokenizer, unseen, 0)
    assert loss < guessing_loss(tokenizer, unseen)
    assert loss < copying_loss(network, tokenizer, unseen, 1) - 0.5  # other memories make it worse
    exported = recipe.export_checkpoint(network, tokenizer_json, folder / "out")
    clara = Clara.from_pretrained(exported, base=exported / "base")
    result = evaluate_nano.evaluate_answers(clara, "seen values", 6)
    assert result.score.total == 6
    assert sum(score.total for score in result.kinds.values()) == 6


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, folder: Path, small: None) -> None:
    curves: list[list[float]] = []
    for stops in ((8,), (3, 8)):
        curve: list[float] = []
        run = tmp_path / str(len(stops))
        run.mkdir()
        (run / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
        for stop in stops:
            trainer, _, _ = recipe.make_main_trainer(run, STEPS)
            trainer.resume()
            curve.extend(progress.metrics["copy"] for progress in trainer.run(stop))
        curves.append(curve)
    assert curves[0] == curves[1]


def test_further_training_leaves_the_base_unchanged(tmp_path: Path, folder: Path, small: None) -> None:
    _, network, tokenizer_json = recipe.make_main_trainer(folder, STEPS)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    further = recipe.make_further_trainer(network, tokenizer_json, tmp_path, 20)
    assert [progress.step for progress in further.run(2)] == [1, 2]
    changed = {
        name.split(".")[0] for name, weight in network.state_dict().items() if not torch.equal(weight, before[name])
    }
    assert changed == {"adapters", "embed", "head"}
    lessons = [curriculum.make_lesson(1042, step, 20, curriculum.FURTHER_PHASES) for step in range(12)]
    assert all(lesson.episodes for lesson in lessons)  # from the first step on
    assert any(lesson.retrieval for lesson in lessons)


def test_one_run_makes_both_rates(tmp_path: Path, folder: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text())
    monkeypatch.setattr(recipe, "calibrate_abstention", partial(recipe.calibrate_abstention, count=1))
    steps: list[int] = []
    exported = train_nano(tmp_path, 5, 7, lambda progress: steps.append(progress.step))
    assert steps == [1, 2, 3, 4, 5, 1, 2, 1, 1, 1]
    for rate in (recipe.RATE, recipe.FINE_RATE):
        clara = Clara.from_pretrained(exported / f"compression-{rate}", base=exported / "base")
        assert clara.config.abstention is not None
        assert clara.compress(["User likes hiking."]).vectors.shape[1] == recipe.DOCUMENT_LIMIT // rate
    assert (tmp_path / "further" / "log.jsonl").exists()


def test_the_train_command_runs_in_its_output_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Path, int, int]] = []

    def train(folder: Path, steps: int, seed: int, _: object) -> Path:
        calls.append((folder, steps, seed))
        return folder / "clara-nano"

    monkeypatch.setattr("clara_proxy.benchmarks.nano.train.train_nano", train)
    __main__.main(["train", "--out", str(tmp_path), "--steps", "3"])
    assert calls == [(tmp_path, 3, 42)]
    assert f"Checkpoints: {tmp_path / 'clara-nano'}" in capsys.readouterr().out


def test_added_memory_tokens_start_as_the_old_ones(folder: Path, small: None) -> None:
    _, network, tokenizer_json = recipe.make_main_trainer(folder, STEPS)
    coarse, fine = (recipe.make_tokenizer(tokenizer_json, rate) for rate in (recipe.RATE, recipe.FINE_RATE))
    extended = recipe.add_memory_tokens(network, coarse, fine)
    texts = ["User likes hiking in national parks.", "The code of the safe of Ben is 4471."]
    with torch.no_grad():
        old, new = (
            objective.encode(
                model, make_encoder_rows(tokenizer, texts, recipe.DOCUMENT_LIMIT), model.layer_weights(ENCODER_ADAPTER)
            ).float()
            for model, tokenizer in ((network, coarse), (extended, fine))
        )
    assert new.shape[1] == 4 * old.shape[1]
    assert torch.allclose(old, new[:, : old.shape[1]], atol=0.05)  # computed in bfloat16
    for name in ("enc_id", "sep_id", "eos_id"):
        row = network.embed[getattr(coarse, name)]
        assert torch.equal(row, extended.embed[getattr(fine, name)])


def test_the_model_shape_fits_the_format() -> None:
    config = recipe.model_config(3000)
    assert config.hidden_size == config.heads * config.head_dim
    assert config.max_positions >= recipe.DOCUMENT_LIMIT + 3 + recipe.DOCUMENT_LIMIT // recipe.RATE
