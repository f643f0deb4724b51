"""The trainable network is the engine's model: the same numbers, packed or one by one, before saving and after."""

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from clara_proxy.compression.clara.base import Shape
from clara_proxy.compression.clara.checkpoint import DECODER, ENCODER, QUERY
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.tokens import Layout, Vocabulary
from clara_proxy.compression.clara.train import facts, objective, packed, wordpieces
from clara_proxy.compression.clara.train.facts import Mix
from clara_proxy.compression.clara.train.network import Network
from clara_proxy.compression.clara.train.packed import IGNORED
from clara_proxy.compression.clara.train.save import Describe, save_base, save_checkpoint

LIMIT, RATE = 32, 8


class Made(NamedTuple):
    network: Network
    vocabulary: Vocabulary
    clara: Clara


@pytest.fixture(scope="module", params=[1, 2], ids=["plain", "grouped"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    tokenizer = wordpieces.train(lines=300, size=700)
    vocabulary = Vocabulary(tokenizer, Layout(LIMIT // RATE))
    shape = Shape(32, 2, 4, 4 // request.param, 8, 48, vocabulary.size, 1e-5, 10000.0, 512, (2,))
    network = Network(shape, 4, (DECODER, ENCODER, QUERY))
    for name in network.adapters:
        for layer in network.pairs(name):
            for pair in layer.values():
                pair.up.data.normal_(0, 0.1)  # an adapter with B = 0 would test nothing
    folder = tmp_path_factory.mktemp("saved")
    save_base(network, tokenizer, vocabulary.base_size, folder / "base", torch.float32)
    save_checkpoint(network, Describe(LIMIT, RATE), folder / f"compression-{RATE}", torch.float32)
    return Made(network, vocabulary, Clara.from_pretrained(folder, subfolder="compression-8", base=folder / "base"))


def test_memories_are_the_same_after_saving_and_loading(made: Made) -> None:
    texts = ["Ann lives in Oslo.", "The code of the door of Ben is 4471.", ""]
    rows = packed.rows(made.vocabulary, texts, LIMIT)
    with torch.no_grad():
        mine = objective.encode(made.network, rows, made.network.weights(ENCODER))
        queries = objective.encode(made.network, rows, made.network.weights(QUERY)).flatten(1)
    assert torch.allclose(mine, made.clara.compress(texts).vectors, atol=1e-5)
    assert torch.allclose(queries, torch.cat(made.clara.query(texts)), atol=1e-5)


def test_a_packed_question_gets_the_logits_of_a_prompt_of_its_own(made: Made) -> None:
    rng = random.Random(5)
    episodes = [facts.episode(rng, Mix(documents=3, questions=4)) for _ in range(2)]
    batch = packed.episodes(made.vocabulary, episodes, LIMIT)
    with torch.no_grad():
        memories = objective.encode(made.network, batch.documents, made.network.weights(ENCODER))
        logits = answered(made.network, batch, memories)
    first = iter(logits)
    for each in episodes:
        latents = made.clara.compress(each.documents)
        for question in each.questions:
            prepared = made.clara.prepare(question.text, latents)
            wanted, _ = made.clara.model.prefill([prepared.rows], DECODER)
            assert torch.allclose(next(first), wanted[0], atol=1e-4)


def test_merged_and_unmerged_adapters_agree(made: Made) -> None:
    rows = packed.rows(made.vocabulary, ["Ann lives in Oslo."], LIMIT)
    with torch.no_grad():
        merged = objective.encode(made.network, rows, made.network.weights(ENCODER))
        made.network.merge = False
        beside = objective.encode(made.network, rows, made.network.weights(ENCODER))
        made.network.merge = True
    assert torch.allclose(merged, beside, atol=1e-5)


def test_only_answers_are_learned(made: Made) -> None:
    episode = facts.episode(random.Random(6), Mix(documents=2, questions=3))
    batch = packed.episodes(made.vocabulary, [episode], LIMIT)
    learned: list[int] = [token for token in numbers(batch.labels[0]) if token != IGNORED]
    texts = made.vocabulary.decode([made.vocabulary.sep if token == 2 else token for token in learned])
    assert "".join(texts.split()) == "".join("".join(question.answer.split()) for question in episode.questions)
    assert learned.count(made.vocabulary.eos) == 3


def test_documents_that_answer_as_well_are_barred(made: Made) -> None:
    rng = random.Random(8)
    episodes = [facts.episode(rng, Mix(documents=5, questions=4)) for _ in range(6)]
    found = packed.search(made.vocabulary, episodes, LIMIT)
    assert found.barred.shape == (24, 30)
    assert not found.barred[torch.arange(24), found.targets].any()
    about = [each for episode in episodes for each in episode.about]
    asked = [question.about for episode in episodes for question in episode.questions]
    for place, (question, target) in enumerate(zip(asked, numbers(found.targets), strict=True)):
        assert question in about[target]
        for document, each in enumerate(about):
            assert bool(found.barred[place, document]) == (question in each and document != target)


def answered(network: Network, batch: packed.Batch, memories: Tensor) -> Tensor:
    """Return the logits before each answer's first token, in order."""
    x = functional.embedding(batch.ids, network.embed)
    index = torch.arange(len(x))[:, None].expand_as(batch.slots)
    x = x.index_put((index, batch.slots), memories.reshape(*batch.slots.shape, -1))
    states = network.states(x, batch.positions, network.weights(DECODER), batch.mask)
    before = (batch.labels[:, 1:] != IGNORED) & (batch.labels[:, :-1] == IGNORED)
    return network.logits(states[:, :-1][before])


def numbers(tensor: Any) -> list[Any]:
    return list(tensor.tolist())
