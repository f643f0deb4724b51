"""What a run says of lines it does not learn from: the engine's own answers, right shares, and no weight moved."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.loading import Placement, Source, load
from clara_proxy.compression.clara.train import command, data, held_back, stages, start
from clara_proxy.compression.clara.train.batch import Limits, Lines, Stage, collate
from clara_proxy.compression.clara.train.data import Item
from clara_proxy.compression.clara.train.loop import Plan

DOCUMENTS = ["the fox", "a river", "stone bridge"]
ASKED = ["fox", "the river", "lamp"]


class Trained:
    """A tiny checkpoint as an objective, and how its lines are laid out."""

    def __init__(self, tiny: Path, stage: Stage) -> None:
        loaded = load(Source(tiny / "clara" / "compression-4", base=tiny / "base"), Placement("cpu", "float32", "no"))
        self.stage: Stage = stage
        self.vocabulary = loaded.vocabulary
        self.limits = Limits(loaded.config.document_limit, 256)
        self.objective = stages.Objective(start.for_stage(loaded, stage), stage, 2)

    def collate(self, items: Sequence[Item]) -> Lines:
        return collate(self.vocabulary, items, self.stage, self.limits, 2, [0] * len(items))

    def figures(self, items: Sequence[Item]) -> dict[str, float]:
        return held_back.figures(self.objective, self.vocabulary, items, self.collate, 1)


def items(answers: Sequence[str], positives: tuple[int, ...] = ()) -> list[Item]:
    return [
        Item(tuple(DOCUMENTS), (question,), (answer,), positives=positives)
        for question, answer in zip(ASKED, answers, strict=True)
    ]


def said(tiny: Path, k: int) -> list[str]:
    """Return what the engine answers."""
    clara = Clara.from_pretrained(tiny / "clara" / "compression-4", base=tiny / "base", device="cpu")
    latents = clara.compress(DOCUMENTS)
    return [reply.text.strip() for reply in clara.answers(ASKED, [latents] * len(ASKED), k, held_back.LONGEST)]


def test_answers_are_those_of_the_engine(tiny: Path) -> None:
    answers = said(tiny, 2)
    assert any(answers)
    trained = Trained(tiny, "stage2")
    assert [
        held_back.answer(trained.objective, trained.vocabulary, trained.collate([item]))
        for item in items(["nobody knows"] * 3)
    ] == answers


def test_right_answers_count_and_wrong_ones_do_not(tiny: Path) -> None:
    right = said(tiny, 2)
    trained = Trained(tiny, "stage2")
    before = {name: weight.clone() for name, weight in trained.objective.named_parameters()}
    assert trained.figures(items(right))["exact"] == trained.figures(items(right))["f1"] == 1
    wrong = trained.figures(items([right[0], "nobody knows", "nobody knows"]))
    assert wrong["exact"] == wrong["f1"] == pytest.approx(1 / 3)
    assert wrong["held_back"] > 0
    assert trained.objective.training
    assert all(torch.equal(weight, before[name]) for name, weight in trained.objective.named_parameters())


def test_recall_is_the_share_of_helping_documents_among_the_chosen(tiny: Path) -> None:
    trained = Trained(tiny, "stage2_pretrain_retrieval")
    shares = [trained.figures(items([""] * 3, (place,)))["recall"] for place in range(3)]
    assert sum(shares) == pytest.approx(2)  # two of three documents are chosen for each question
    assert trained.figures(items([""] * 3, (0, 1, 2)))["recall"] == pytest.approx(2 / 3)
    assert "exact" not in trained.figures(items([""] * 3, (0,)))


def test_a_stage_logs_them(tiny: Path, tmp_path: Path) -> None:
    lines = tmp_path / "data.jsonl"
    told = [{"docs": DOCUMENTS, "question": each, "answer": "the fox", "pos_index": [0]} for each in ASKED]
    lines.write_text("".join(json.dumps(each) + "\n" for each in told))
    assert len(data.read(lines)) == 3
    job = command.Job("stage2", tiny / "clara" / "compression-4", tiny / "base", lines, lines, top_k=2)
    shown: list[set[str]] = []
    command.train_stage(
        job, Plan(5, rate=1e-3, keep=4), tmp_path / "run", lambda record: shown.append(set(record.figures))
    )
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [4, 5]
    assert all({"held_back", "exact", "f1", "recall"} <= set(line) for line in logged)
    assert [("f1" in names) for names in shown] == [False, False, False, True, True]
