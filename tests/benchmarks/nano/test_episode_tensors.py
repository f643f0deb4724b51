"""The trainable network equals the engine: after export, and with questions packed side by side."""

import random
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from clara_proxy.benchmarks.nano import episode_tensors, objective
from clara_proxy.benchmarks.nano.export import save_base
from clara_proxy.benchmarks.nano.synthetic.episodes import make_episode
from clara_proxy.benchmarks.nano.synthetic.facts import EpisodeSpec
from clara_proxy.benchmarks.nano.train_tokenizer import train_tokenizer
from clara_proxy.compression.clara.base import Shape
from clara_proxy.compression.clara.checkpoint import DECODER, ENCODER, QUERY
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.tokens import Layout, Vocabulary
from clara_proxy.compression.clara.train.checkpoint_writer import CheckpointInfo, save_checkpoint
from clara_proxy.compression.clara.train.encoder_rows import IGNORED_LABEL, make_encoder_rows
from clara_proxy.compression.clara.train.network import Network

LIMIT, RATE = 32, 8


class Models(NamedTuple):
    """A random network, its vocabulary, and the engine with the same weights."""

    network: Network
    vocabulary: Vocabulary
    clara: Clara


@pytest.fixture(scope="module", params=[1, 2], ids=["plain", "grouped"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    tokenizer = train_tokenizer(lines=300, size=700)
    vocabulary = Vocabulary(tokenizer, Layout(LIMIT // RATE))
    shape = Shape(32, 2, 4, 4 // request.param, 8, 48, vocabulary.size, 1e-5, 10000.0, 512, (2,))
    network = Network(shape, 4, (DECODER, ENCODER, QUERY))
    for name in network.adapters:
        for layer in network.lora_pairs(name):
            for pair in layer.values():
                pair.up.data.normal_(0, 0.1)  # an adapter with B = 0 would test nothing
    folder = tmp_path_factory.mktemp("saved")
    save_base(network, tokenizer, vocabulary.base_size, folder / "base", torch.float32)
    save_checkpoint(network, CheckpointInfo(LIMIT, RATE), folder / f"compression-{RATE}", torch.float32)
    clara = Clara.from_pretrained(folder, subfolder="compression-8", base=folder / "base")
    return Models(network, vocabulary, clara)


def test_memories_are_the_same_after_saving_and_loading(models: Models) -> None:
    texts = ["Ann lives in Oslo.", "The code of the door of Ben is 4471.", ""]
    rows = make_encoder_rows(models.vocabulary, texts, LIMIT)
    network = models.network
    with torch.no_grad():
        memories = objective.encode(network, rows, network.layer_weights(ENCODER))
        queries = objective.encode(network, rows, network.layer_weights(QUERY)).flatten(1)
    assert torch.allclose(memories, models.clara.compress(texts).vectors, atol=1e-5)
    assert torch.allclose(queries, torch.cat(models.clara.query(texts)), atol=1e-5)


def test_a_packed_question_has_the_logits_of_its_own_prompt(models: Models) -> None:
    rng = random.Random(5)
    episodes = [make_episode(rng, EpisodeSpec(documents=3, questions=4)) for _ in range(2)]
    batch = episode_tensors.pack_episodes(models.vocabulary, episodes, LIMIT)
    with torch.no_grad():
        memories = objective.encode(models.network, batch.documents, models.network.layer_weights(ENCODER))
        logits = iter(first_answer_logits(models.network, batch, memories))
    for episode in episodes:
        latents = models.clara.compress(episode.documents)
        for question in episode.questions:
            prepared = models.clara.prepare(question.text, latents)
            expected, _ = models.clara.model.prefill([prepared.rows], DECODER)
            assert torch.allclose(next(logits), expected[0], atol=1e-4)


def test_merged_and_unmerged_adapters_agree(models: Models) -> None:
    network = models.network
    rows = make_encoder_rows(models.vocabulary, ["Ann lives in Oslo."], LIMIT)
    with torch.no_grad():
        merged = objective.encode(network, rows, network.layer_weights(ENCODER))
        network.merge = False
        unmerged = objective.encode(network, rows, network.layer_weights(ENCODER))
        network.merge = True
    assert torch.allclose(merged, unmerged, atol=1e-5)


def test_only_answers_have_labels(models: Models) -> None:
    vocabulary = models.vocabulary
    episode = make_episode(random.Random(6), EpisodeSpec(documents=2, questions=3))
    batch = episode_tensors.pack_episodes(vocabulary, [episode], LIMIT)
    labels: list[int] = [token for token in to_list(batch.labels[0]) if token != IGNORED_LABEL]
    text = vocabulary.decode([vocabulary.sep if token == 2 else token for token in labels])
    assert "".join(text.split()) == "".join("".join(question.answer.split()) for question in episode.questions)
    assert labels.count(vocabulary.eos) == 3


def test_other_documents_that_answer_a_question_are_excluded(models: Models) -> None:
    rng = random.Random(8)
    episodes = [make_episode(rng, EpisodeSpec(documents=5, questions=4)) for _ in range(6)]
    batch = episode_tensors.pack_retrieval(models.vocabulary, episodes, LIMIT)
    assert batch.excluded.shape == (24, 30)
    assert not batch.excluded[torch.arange(24), batch.targets].any()
    topics = [document for episode in episodes for document in episode.topics]
    questions = [question.topic for episode in episodes for question in episode.questions]
    for row, (topic, target) in enumerate(zip(questions, to_list(batch.targets), strict=True)):
        assert topic in topics[target]
        for index, document in enumerate(topics):
            assert bool(batch.excluded[row, index]) == (topic in document and index != target)


def first_answer_logits(network: Network, batch: episode_tensors.PackedBatch, memories: Tensor) -> Tensor:
    """Return the logits that predict each answer's first token, in order."""
    x = functional.embedding(batch.ids, network.embed)
    index = torch.arange(len(x))[:, None].expand_as(batch.slots)
    x = x.index_put((index, batch.slots), memories.reshape(*batch.slots.shape, -1))
    states = network.hidden_states(x, batch.positions, network.layer_weights(DECODER), batch.mask)
    before_answer = (batch.labels[:, 1:] != IGNORED_LABEL) & (batch.labels[:, :-1] == IGNORED_LABEL)
    return network.logits(states[:, :-1][before_answer])


def to_list(tensor: Any) -> list[Any]:
    return list(tensor.tolist())
