"""Training of the query adapter: right and excluded documents, trained weights, and the abstention threshold."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.benchmarks.nano import query_adapter, recipe
from clara_proxy.benchmarks.nano.query_adapter import balanced_threshold
from clara_proxy.benchmarks.nano.synthetic.negatives import topics_match
from clara_proxy.benchmarks.nano.train_tokenizer import train_tokenizer
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.checkpoint_config import read_checkpoint_config
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.decoder_config import DecoderConfig
from clara_proxy.compression.clara.train.network import Network

CONFIG = DecoderConfig(64, 2, 2, 2, 32, 96, 0, 1e-5, 10000.0, 2048, (2,))
SCORES = st.lists(st.integers(-1000, 1000).map(lambda score: score / 1000), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def tokenizer_json() -> str:
    return train_tokenizer(lines=1500, size=900)


@pytest.fixture
def network(tokenizer_json: str) -> Network:
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    size = recipe.make_tokenizer(tokenizer_json).vocabulary_size
    return Network(CONFIG._replace(vocabulary_size=size), 4, (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER))


def test_documents_that_answer_a_question_are_targets_or_excluded(tokenizer_json: str) -> None:
    tokenizer = recipe.make_tokenizer(tokenizer_json)
    answerable = unanswerable = 0
    for step in range(12):
        episodes = query_adapter.make_lesson(42, step)
        retrieval = query_adapter.make_batch(tokenizer, episodes, recipe.DOCUMENT_LIMIT).retrieval
        topics = [document for episode in episodes for document in episode.topics]
        questions = [question for episode in episodes for question in episode.questions]
        assert retrieval.excluded.shape == (len(questions), len(topics))
        for question, target, excluded in zip(questions, retrieval.targets, retrieval.excluded, strict=True):
            right = {
                index
                for index, document in enumerate(topics)
                if any(topics_match(question.topic, topic) for topic in document)
            }
            source = set[int]() if question.source is None else {int(target)}
            assert source <= right
            assert {index for index, is_excluded in enumerate(excluded) if is_excluded} == right - source
            assert question.source is not None or int(target) == len(topics)
            answerable, unanswerable = answerable + len(source), unanswerable + 1 - len(source)
    assert 0.4 < answerable / (answerable + unanswerable) < 0.6


def test_training_changes_only_the_query_adapter(tokenizer_json: str, network: Network, tmp_path: Path) -> None:
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    trainer = recipe.make_query_adapter_trainer(network, tokenizer_json, tmp_path / "run", recipe.RATE, 30)
    tokenizer = recipe.make_tokenizer(tokenizer_json)
    batch = query_adapter.make_batch(tokenizer, query_adapter.make_lesson(43, 0), recipe.DOCUMENT_LIMIT)

    def loss() -> float:
        with torch.no_grad():
            return float(trainer.model(batch)["total"])

    initial = loss()
    assert [progress.step for progress in trainer.run()][-1] == 30
    trainer.apply_average()
    assert loss() < 0.8 * initial
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all(QUERY_ADAPTER in name for name in changed)


def test_the_threshold_is_calibrated_on_the_export_and_saved(
    tokenizer_json: str, network: Network, tmp_path: Path
) -> None:
    folder = recipe.export_checkpoint(network, tokenizer_json, tmp_path / "out")
    assert read_checkpoint_config(folder / "compression-16").abstention is None
    threshold = recipe.calibrate_abstention(folder, count=2)
    config = json.loads((folder / "compression-16" / "config.json").read_text())
    assert config["abstention"] == {"below": threshold, "says": "not stated"}
    assert config["compr_rate"] == recipe.RATE
    clara = Clara.from_pretrained(folder, base=folder / "base", device="cpu")
    assert clara.config.abstention == (threshold, "not stated")
    assert query_adapter.calibrate_threshold(clara, 42, 2) == threshold


@given(SCORES, SCORES)
def test_no_score_separates_more_evenly_than_the_threshold(answerable: list[float], unanswerable: list[float]) -> None:
    def imbalance(threshold: float) -> float:
        accepted = sum(score >= threshold for score in answerable) / len(answerable)
        return abs(accepted - sum(score < threshold for score in unanswerable) / len(unanswerable))

    threshold = balanced_threshold(answerable, unanswerable)
    assert threshold in {*answerable, *unanswerable}
    assert all(imbalance(threshold) <= imbalance(score) for score in {*answerable, *unanswerable})


def test_separable_scores_are_separated() -> None:
    assert balanced_threshold([0.5, 0.6], [0.1, 0.2, 0.3]) == 0.5
