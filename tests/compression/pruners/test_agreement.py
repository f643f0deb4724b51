"""Pruners give the scores of the published code, on tiny random checkpoints of the published shapes."""

import json
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="pruners need the extra [pruners]")

import torch
from torch import nn

from clara_proxy.benchmarks import tiny_pruners
from clara_proxy.compression.extract.core import lines
from clara_proxy.compression.extract.core.sentences import find_sentences
from clara_proxy.compression.pruners.jobs import PruneJob
from clara_proxy.compression.pruners.pruner import Pruner, PrunerPlacement, load_pruner
from clara_proxy.tests.compression.pruners import references

TOLERANCE = 1e-5
GOLDENS = json.loads(Path(__file__).with_name("llmlingua2.json").read_text(encoding="utf-8"))
QUESTION = "Why did the engine of the old mill fail?"
PROSE = (
    "The mill of the old town was mended by patient people. The engine failed to start because the pump was old! "
    "Pressure rose without warning.\n\nNo one checked it, the report says. The river of summer."
)
CODE = (
    "import name\n\n\nclass value:\n    def start(self):\n        if self.pump:\n            return 3\n"
    "        print(self.name)\n\n    def return_value(self):\n        return self.value\n"
)
Build = Callable[[Mapping[str, Any]], nn.Module]


def load(folder: Path) -> Pruner:
    return load_pruner(folder, PrunerPlacement("cpu", threads=1))


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: golden["kind"])
def test_llmlingua2_keeps_the_words_of_the_package_llmlingua(golden: Any, tmp_path: Path) -> None:
    pruner = load(tiny_pruners.write_llmlingua2(tmp_path, golden["kind"]))
    for entry in golden["texts"]:
        scored = pruner.score(PruneJob(entry["text"]))
        assert scored.scores == pytest.approx(list(map(float, entry["probabilities"].split())), abs=TOLERANCE)
        words = [entry["text"][start:end] for start, end in scored.spans]
        assert words == [word.lstrip("\u2581") for word in entry["words"].split("|")]
        for labels in entry["labels"].values():
            kept = [score for score, label in zip(scored.scores, labels, strict=True) if label == "1"]
            dropped = [score for score, label in zip(scored.scores, labels, strict=True) if label == "0"]
            assert min(kept) > max(dropped)  # a threshold keeps the same words


def score_sentences(reference: nn.Module, ids: list[int], sentences: list[list[int]]) -> tuple[list[float], float]:
    with torch.inference_mode():
        tokens, relevance = reference(torch.tensor([ids]))
    start, means = len(ids) - 1 - sum(map(len, sentences)), list[float]()
    for sentence in sentences:
        means.append(float(tokens[start : start + len(sentence)].mean()))
        start += len(sentence)
    return means, float(relevance)


def test_provence_scores_sentences_as_plain_transformers(tmp_path: Path) -> None:
    folder = tiny_pruners.write_provence(tmp_path, references.ProvenceReference)
    tokenizer, spans = references.load_tokenizer(folder), find_sentences(PROSE)
    texts = [PROSE[start:end] if index == 0 else " " + PROSE[start:end] for index, (start, end) in enumerate(spans)]
    sentences = [references.encode(tokenizer, text) for text in texts]
    question = references.encode(tokenizer, references.normalize(QUESTION))
    ids = [
        tokenizer.cls_token_id,
        *question,
        tokenizer.sep_token_id,
        *chain.from_iterable(sentences),
        tokenizer.sep_token_id,
    ]
    config = json.loads((folder / "config.json").read_text())
    reference = references.load_reference(references.ProvenceReference(config), folder)
    means, relevance = score_sentences(reference, ids, sentences)
    scored = load(folder).score(PruneJob(PROSE, QUESTION, spans))
    assert scored.scores == pytest.approx(means, abs=TOLERANCE)
    assert scored.relevance == pytest.approx([relevance], abs=TOLERANCE)
    assert max(means) - min(means) > 100 * TOLERANCE


def test_open_provence_scores_sentences_as_plain_transformers(tmp_path: Path) -> None:
    folder = tiny_pruners.write_open_provence(tmp_path, references.OpenProvenceReference, max_length=512)
    tokenizer, spans = references.load_tokenizer(folder), find_sentences(PROSE)
    starts = [*(start for start, _ in spans[1:]), len(PROSE)]
    texts = [PROSE[start:after] for (start, _), after in zip(spans, starts, strict=True)]
    sentences = [references.encode(tokenizer, text) for text in texts]
    question = references.encode(tokenizer, QUESTION)
    ids = [
        tokenizer.cls_token_id,
        *question,
        tokenizer.sep_token_id,
        *chain.from_iterable(sentences),
        tokenizer.sep_token_id,
    ]
    config = json.loads((folder / "config.json").read_text())["base_model_config"]
    reference = references.load_reference(references.OpenProvenceReference(config), folder)
    means, relevance = score_sentences(reference, ids, sentences)
    scored = load(folder).score(PruneJob(PROSE, QUESTION, spans))
    assert scored.scores == pytest.approx(means, abs=TOLERANCE)
    assert scored.relevance == pytest.approx([relevance], abs=TOLERANCE)
    assert max(means) - min(means) > 100 * TOLERANCE


def test_swe_pruner_scores_lines_as_plain_transformers(tmp_path: Path) -> None:
    backbone: dict[str, Any] = {}

    def build(config: Mapping[str, Any]) -> nn.Module:
        backbone.update(config)
        return references.SwePrunerReference(config)

    folder = tiny_pruners.write_swe_pruner(tmp_path, build)
    tokenizer = references.load_tokenizer(folder)
    prefix = references.encode(tokenizer, references.JUDGE) + references.encode(
        tokenizer, references.QUERY.format(QUESTION)
    )
    code = tokenizer(CODE, add_special_tokens=False, return_offsets_mapping=True)
    ids = [*prefix, *code["input_ids"], *references.encode(tokenizer, references.ANSWER)]
    reference = references.load_reference(references.SwePrunerReference(backbone), folder)
    yes, no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    with torch.inference_mode():
        tokens, relevance = reference(torch.tensor([ids]), yes, no)
    characters: dict[int, float] = {}
    for index, (start, end) in enumerate(code["offset_mapping"]):
        characters |= dict.fromkeys(range(start, end), float(tokens[len(prefix) + index]))
    spans = lines.find_line_spans(CODE)
    means = [sum(map(characters.__getitem__, range(*span))) / (span[1] - span[0]) for span in spans]
    scored = load(folder).score(PruneJob(CODE, QUESTION, spans))
    assert scored.scores == pytest.approx(means, abs=TOLERANCE)
    assert scored.relevance == pytest.approx([float(relevance)], abs=TOLERANCE)
    assert max(means) - min(means) > 100 * TOLERANCE


def test_token_classifier_scores_words_as_plain_transformers(tmp_path: Path) -> None:
    folder = tiny_pruners.write_token_classifier(tmp_path)
    tokenizer: Any = references.load_tokenizer(folder)
    text = "The engine failed to start, because unknownword was old."
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    model = references.transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    ids = [tokenizer.cls_token_id, *encoded["input_ids"], tokenizer.sep_token_id]
    with torch.inference_mode():
        keep = model(torch.tensor([ids])).logits.softmax(-1)[0, 1:-1, 0]  # the label KEEP is the first
    means = list[float]()
    for word in text.split():
        start = text.index(word)
        inside = [i for i, (first, _) in enumerate(encoded["offset_mapping"]) if start <= first < start + len(word)]
        means.append(float(keep[inside].mean()))
    scored = load(folder).score(PruneJob(text))
    assert [text[start:end] for start, end in scored.spans] == text.split()
    assert scored.scores == pytest.approx(means, abs=TOLERANCE)
