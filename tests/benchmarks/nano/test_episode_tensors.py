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
from clara_proxy.compression.clara.checkpoint import DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.decoder_config import DecoderConfig
from clara_proxy.compression.clara.tokenizer import ClaraTokenizer, MemoryTokenSpec
from clara_proxy.compression.clara.train.checkpoint_writer import CheckpointInfo, save_checkpoint
from clara_proxy.compression.clara.train.encoder_rows import IGNORED_LABEL, make_encoder_rows
from clara_proxy.compression.clara.train.network import Network

LIMIT, RATE = 32, 8


class Models(NamedTuple):
    """A random network, its tokenizer, and the engine with the same weights."""

    network: Network
    tokenizer: ClaraTokenizer
    clara: Clara


@pytest.fixture(scope="module", params=[1, 2], ids=["plain", "grouped"])
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    tokenizer_json = train_tokenizer(lines=300, size=700)
    tokenizer = ClaraTokenizer(tokenizer_json, MemoryTokenSpec(LIMIT // RATE))
    config = DecoderConfig(32, 2, 4, 4 // request.param, 8, 48, tokenizer.vocabulary_size, 1e-5, 10000.0, 512, (2,))
    network = Network(config, 4, (DECODER_ADAPTER, ENCODER_ADAPTER, QUERY_ADAPTER))
    for name in network.adapters:
        for layer in network.lora_pairs(name):
            for pair in layer.values():
                pair.up.data.normal_(0, 0.1)  # an adapter with B = 0 would test nothing
    folder = tmp_path_factory.mktemp("saved")
    save_base(network, tokenizer_json, tokenizer.base_vocabulary_size, folder / "base", torch.float32)
    save_checkpoint(network, CheckpointInfo(LIMIT, RATE), folder / f"compression-{RATE}", torch.float32)
    clara = Clara.from_pretrained(folder, subfolder="compression-8", base=folder / "base")
    return Models(network, tokenizer, clara)


def test_memories_are_the_same_after_saving_and_loading(models: Models) -> None:
    texts = ["Ann lives in Oslo.", "The code of the door of Ben is 4471.", ""]
    rows = make_encoder_rows(models.tokenizer, texts, LIMIT)
    network = models.network
    with torch.no_grad():
        memories = objective.encode(network, rows, network.layer_weights(ENCODER_ADAPTER))
        queries = objective.encode(network, rows, network.layer_weights(QUERY_ADAPTER)).flatten(1)
    assert torch.allclose(memories, models.clara.compress(texts).vectors, atol=1e-5)
    assert torch.allclose(queries, torch.cat(models.clara.encode_questions(texts)), atol=1e-5)


def test_a_packed_question_has_the_logits_of_its_own_prompt(models: Models) -> None:
    rng = random.Random(5)
    episodes = [make_episode(rng, EpisodeSpec(documents=3, questions=4)) for _ in range(2)]
    batch = episode_tensors.pack_episodes(models.tokenizer, episodes, LIMIT)
    with torch.no_grad():
        memories = objective.encode(models.network, batch.documents, models.network.layer_weights(ENCODER_ADAPTER))
        logits = iter(first_answer_logits(models.network, batch, memories))
    for episode in episodes:
        latents = models.clara.compress(episode.documents)
        for question in episode.questions:
            prepared = models.clara.prepare_answer(question.text, latents)
            expected, _ = models.clara.model.prefill([prepared.input_embeddings], DECODER_ADAPTER)
            assert torch.allclose(next(logits), expected[0], atol=1e-4)


def test_merged_and_unmerged_adapters_agree(models: Models) -> None:
    network = models.network
    rows = make_encoder_rows(models.tokenizer, ["Ann lives in Oslo."], LIMIT)
    with torch.no_grad():
        merged = objective.encode(network, rows, network.layer_weights(ENCODER_ADAPTER))
        network.merge = False
        unmerged = objective.encode(network, rows, network.layer_weights(ENCODER_ADAPTER))
        network.merge = True
    assert torch.allclose(merged, unmerged, atol=1e-5)


def test_only_answers_have_labels(models: Models) -> None:
    tokenizer = models.tokenizer
    episode = make_episode(random.Random(6), EpisodeSpec(documents=2, questions=3))
    batch = episode_tensors.pack_episodes(tokenizer, [episode], LIMIT)
    labels: list[int] = [token for token in to_list(batch.labels[0]) if token != IGNORED_LABEL]
    text = tokenizer.decode([tokenizer.sep_id if token == 2 else token for token in labels])
    assert "".join(text.split()) == "".join("".join(question.answer.split()) for question in episode.questions)
    assert labels.count(tokenizer.eos_id) == 3


def test_other_documents_that_answer_a_question_are_excluded(models: Models) -> None:
    rng = random.Random(8)
    episodes = [make_episode(rng, EpisodeSpec(documents=5, questions=4)) for _ in range(6)]
    batch = episode_tensors.pack_retrieval(models.tokenizer, episodes, LIMIT)
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
    states = network.hidden_states(x, batch.positions, network.layer_weights(DECODER_ADAPTER), batch.mask)
    before_answer = (batch.labels[:, 1:] != IGNORED_LABEL) & (batch.labels[:, :-1] == IGNORED_LABEL)
    return network.logits(states[:, :-1][before_answer])


def to_list(tensor: Any) -> list[Any]:
    return list(tensor.tolist())
