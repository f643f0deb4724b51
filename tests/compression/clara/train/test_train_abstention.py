"""An abstention head learns from a checkpoint's own answers which questions it gets wrong."""

import pytest

pytest.importorskip("accelerate", reason="training needs the extra [train]")

import json
import shutil
from pathlib import Path

import numpy as np
import typer
from typer.testing import CliRunner

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.locate import HEAD_FILE
from clara_proxy.compression.clara.train.train_abstention import (
    choose_depths,
    choose_threshold,
    compute_auc,
    holds_answer,
    make_requests,
)
from clara_proxy.compression.clara.train.training_data import Example
from clara_proxy.proxy.commands import train

DOCUMENTS = ["the fox", "a river of stone", "the lamp and the bridge", "a stone", "the fox and the river"]
KNOWN, UNKNOWN = ["which fox?", "the fox of {}?", "fox {} fox"], ["river lamp?", "lamp at {} river?", "river {} lamp"]


def load(folder: Path) -> Clara:
    return Clara.from_pretrained(folder / "clara", base=folder / "base", device="cpu")


def write_lines(clara: Clara, path: Path, first: int, count: int) -> list[str]:
    """Write questions that the checkpoint answers as expected, each followed by one that it does not; return them."""
    questions, documents = list[str](), list[str]()
    for number in range(first, first + count):
        questions += [group[number % 3].format(number) for group in (KNOWN, UNKNOWN)]
        documents += [DOCUMENTS[number % 5], DOCUMENTS[number % 5]]
    texts = clara.generate(questions, [[document] for document in documents], 32)
    lines = [
        {"docs": [document], "question": question, "answer": text if index % 2 == 0 else "seventeen"}
        for index, (question, document, text) in enumerate(zip(questions, documents, texts, strict=True))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return questions


def test_head_separates_what_the_checkpoint_gets_wrong(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny, folder)
    clara = load(folder)
    write_lines(clara, tmp_path / "data.jsonl", 0, 31)
    questions = write_lines(clara, tmp_path / "held-back.jsonl", 50, 8)
    app = typer.Typer()
    app.command()(train.train)
    options = ["--stage", "abstention", "--checkpoint", str(folder / "clara"), "--base"]
    options += [str(folder / "base"), "--data", str(tmp_path / "data.jsonl")]
    result = CliRunner().invoke(app, [*options, "--held-back", str(tmp_path / "held-back.jsonl")])
    assert result.exit_code == 0, result.output
    figures = dict(zip(*[iter(result.output.splitlines()[-2].split())] * 2, strict=True))
    assert float(figures["cv_auc"]) > 0.9
    assert float(figures["accuracy"]) > 0.8
    assert result.output.splitlines()[-1] == f"Abstention head: {folder}/clara/compression-4/{HEAD_FILE}"
    routed, documents = load(folder), [[DOCUMENTS[0]]] * len(questions)
    before, after = (model.replies(questions, documents, 6) for model in (clara, routed))
    refused = [reply.not_in_memory for reply in after]
    assert sum(refused[1::2]) > sum(refused[::2])
    assert [one for one, is_refused in zip(after, refused, strict=True) if not is_refused] == [
        one for one, is_refused in zip(before, refused, strict=True) if not is_refused
    ]


def test_head_is_not_trained_without_both_kinds_of_answers(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(tiny, folder)
    lines = [{"docs": ["the fox"], "question": "fox?", "answer": "seventeen"}] * 12
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    app = typer.Typer()
    app.command()(train.train)
    checkpoint = folder / "clara" / "compression-4"
    options = ["--stage", "abstention", "--base", str(folder / "base"), "--data", str(tmp_path / "data.jsonl")]
    result = CliRunner().invoke(app, [*options, "--checkpoint", str(checkpoint)])
    assert (result.exit_code, "it gave 0 and 1" in result.output) == (1, True)
    assert not (checkpoint / HEAD_FILE).exists()
    result = CliRunner().invoke(app, options)
    assert (result.exit_code, "--checkpoint" in result.output) == (2, True)


def test_every_second_line_is_also_asked_about_other_documents() -> None:
    examples = [Example((f"document {n}",), (f"question {n}",), (f"answer {n}",)) for n in range(5)]
    requests = make_requests([*examples, Example(("document 5 with answer 4",), ("q",), ("answer 5",))], retrieves=True)
    absent = [(request.question, request.documents) for request in requests if not request.answer]
    assert absent == [("question 1", ("document 4",)), ("question 3", ("document 0",)), ("q", ("document 2",))]
    assert [request.retrieves for request in requests] == [index % 2 == 1 for index in range(len(requests))]
    shared = [Example(("answer 1",), (f"question {n}",), ("answer 1",)) for n in range(4)]
    assert all(request.answer for request in make_requests(shared, retrieves=False))


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("It is the 3 May.", "3 May", True),
        ("It is the 13 May.", "3 May", False),
        ("invoice 4471", "4472", False),
        ("anything", "", False),
        ("It is not stated.", "not stated", False),
    ],
)
def test_answer_counts_as_given_in_whole_words(text: str, answer: str, expected: bool) -> None:
    assert holds_answer(text, answer) == expected


def test_auc_and_threshold_of_known_scores() -> None:
    is_positive = np.array([False, False, True, False, True, True])
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9])
    assert compute_auc(scores, is_positive) == pytest.approx(8 / 9)
    assert compute_auc(np.zeros(6), is_positive) == 0.5
    assert compute_auc(scores, np.zeros(6, dtype=bool)) == 0.5
    threshold = choose_threshold(scores, is_positive)
    assert threshold in (pytest.approx(0.25), pytest.approx(0.6))
    assert choose_threshold(np.zeros(6), is_positive) == 0


def test_layers_are_half_three_quarters_and_all() -> None:
    assert choose_depths(32) == [16, 24, 32]
    assert choose_depths(1) == [1]
