"""Weights in 8 and 4 bits: near the exact ones, the same whoever is in the batch, and working with every adapter."""

import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from torch import Tensor
from torch.nn import functional

from clara_proxy.compression.clara.checkpoint import ENCODER_ADAPTER
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.weight_quantization import WeightFormat, make_linear
from clara_proxy.tests.compression.clara.conftest import Load

NEAR: dict[WeightFormat, float] = {"int8": 0.01, "int4": 0.12}  # of the output's size
TEXTS = ["the fox crossed the river", "a lamp", "the bridge of stone was built over the river in 1931", "x y z"]
QUESTIONS = ["what crossed the river?", "when was the bridge built?"]


def apart(mine: Tensor, exact: Tensor) -> float:
    return math.sqrt(float((mine.float() - exact.float()).pow(2).sum() / exact.float().pow(2).sum()))


def rounded(tiny: Path, bits: WeightFormat) -> Clara:
    return Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", quantization=bits)


@pytest.mark.parametrize("bits", NEAR)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_map_stays_near_the_exact_one(bits: WeightFormat, dtype: torch.dtype) -> None:
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    weight, x = torch.randn(96, 128) * 0.02, torch.randn(2, 7, 128)
    weight[5] *= 50  # one row far above the others must not flatten them
    weight[9] = 0
    made = make_linear(weight.to(dtype), bits)(x.to(dtype))
    assert made.shape == (2, 7, 96)
    assert made.dtype == dtype
    exact = functional.linear(x, weight)
    for rows in (slice(0, 5), slice(5, 6), slice(10, 96)):
        assert 0 < apart(made[..., rows], exact[..., rows]) < NEAR[bits]
    assert not made[..., 9].any()


@pytest.mark.parametrize("bits", NEAR)
def test_what_a_row_gives_does_not_depend_on_its_batch(tiny: Path, bits: WeightFormat) -> None:
    clara = rounded(tiny, bits)
    together = clara.compress(TEXTS)
    for place, text in enumerate(TEXTS):
        assert torch.allclose(clara.compress([text]).vectors, together.select_document(place).vectors, atol=1e-5)


def test_the_latents_of_other_weights_are_other_latents(tiny: Path, clara: Clara) -> None:
    assert len({clara.fingerprint, rounded(tiny, "int8").fingerprint, rounded(tiny, "int4").fingerprint}) == 3


@pytest.mark.parametrize("name", ["CLaRa-tiny-E2E/compression-16", "CLaRa-tiny64-E2E/compression-4"])
def test_int8_agrees_with_the_exact_weights_on_the_golden_checkpoints(golden: Path, load: Load, name: str) -> None:
    exact = load(name)
    base = golden / "base" / "tiny-mistral"
    rounded = Clara.from_pretrained(golden / "checkpoints" / name, base=base, device="cpu", quantization="int8")
    mine, theirs = rounded.compress(TEXTS), exact.compress(TEXTS)
    assert 0 < apart(mine.vectors, theirs.vectors) < 0.06  # bfloat16 alone moves these random weights by 0.025
    for question in QUESTIONS:
        found, wanted = rounded.retrieve(question, mine), exact.retrieve(question, theirs)
        assert sorted(found.scores) == pytest.approx(sorted(wanted.scores), abs=0.05)


def test_without_the_adapter_a_map_would_be_another(tiny: Path) -> None:
    clara = rounded(tiny, "int8")
    ids = [clara.tokenizer.encode(text) for text in TEXTS]
    assert apart(clara.encode(ids, "none"), clara.encode(ids, ENCODER_ADAPTER)) > 0.05


@pytest.mark.parametrize("bits", NEAR)
def test_a_trained_model_answers_and_finds_the_same(bits: WeightFormat) -> None:
    memories = [
        "User likes hiking in national parks.",
        "User works as a software engineer.",
        "User has a dog named Max.",
    ]
    questions = ["What outdoor activities does the user enjoy?", "What is the name of the user's dog?"]
    exact, made = (Clara.from_pretrained("clara-nano", device="cpu", quantization=one) for one in ("no", bits))
    for question in questions:
        wanted, found = (one.answer(question, memories, 1) for one in (exact, made))
        assert wanted.text
        assert (found.used, found.text) == (wanted.used, wanted.text)
