"""Weights in 8 and 4 bits: close to exact, independent of the batch, and working with every adapter."""

import math
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from torch import Tensor
from torch.nn import functional

from clara_proxy.compression.clara.checkpoint import ENCODER_ADAPTER
from clara_proxy.compression.clara.checkpoint_config import WeightFormat
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.weight_quantization import make_linear
from clara_proxy.tests.compression.clara.conftest import Load

TOLERANCES: dict[WeightFormat, float] = {"int8": 0.01, "int4": 0.12}  # of the output's size
TEXTS = ["the fox crossed the river", "a lamp", "the bridge of stone was built over the river in 1931", "x y z"]
QUESTIONS = ["what crossed the river?", "when was the bridge built?"]


def relative_error(mine: Tensor, exact: Tensor) -> float:
    return math.sqrt(float((mine.float() - exact.float()).pow(2).sum() / exact.float().pow(2).sum()))


def load_quantized(tiny: Path, bits: WeightFormat) -> Clara:
    return Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu", quantization=bits)


def test_decoding_kernel_equals_the_converted_weights() -> None:
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(3))
    linear = make_linear(weight, "int8")
    x = torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(4))
    one_row_at_a_time, as_text = linear(x), linear(x.transpose(0, 1).expand(2, 3, 64))[0]
    torch.testing.assert_close(one_row_at_a_time[:, 0], as_text, atol=1e-5, rtol=1e-5)


def test_quantized_model_keeps_no_shard_mapped(tiny: Path, tmp_path: Path) -> None:
    tiny = shutil.copytree(tiny, tmp_path / "copy")
    clara = load_quantized(tiny, "int8")
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tiny / "base" / "model.safetensors") not in maps.read_text()
    assert clara.generate(["why?"], [["a fox"]], 2)


@pytest.mark.parametrize("bits", TOLERANCES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_layer_is_close_to_the_exact_one(bits: WeightFormat, dtype: torch.dtype) -> None:
    torch.manual_seed(3)  # pyright: ignore[reportUnknownMemberType]
    weight, x = torch.randn(96, 128) * 0.02, torch.randn(2, 7, 128)
    weight[5] *= 50  # one row far above the others must not flatten them
    weight[9] = 0
    output = make_linear(weight.to(dtype), bits)(x.to(dtype))
    assert output.shape == (2, 7, 96)
    assert output.dtype == dtype
    exact = functional.linear(x, weight)
    for rows in (slice(0, 5), slice(5, 6), slice(10, 96)):
        assert 0 < relative_error(output[..., rows], exact[..., rows]) < TOLERANCES[bits]
    assert not output[..., 9].any()


@pytest.mark.parametrize("bits", TOLERANCES)
def test_latents_do_not_depend_on_the_batch(tiny: Path, bits: WeightFormat) -> None:
    clara = load_quantized(tiny, bits)
    together = clara.compress(TEXTS)
    for index, text in enumerate(TEXTS):
        own = together.slice_documents(index, index + 1)
        assert torch.allclose(clara.compress([text]).vectors, own.vectors, atol=1e-5)


def test_fingerprint_differs_between_quantizations(tiny: Path, clara: Clara) -> None:
    assert (
        len({clara.fingerprint, load_quantized(tiny, "int8").fingerprint, load_quantized(tiny, "int4").fingerprint})
        == 3
    )


@pytest.mark.parametrize("name", ["CLaRa-tiny-E2E/compression-16", "CLaRa-tiny64-E2E/compression-4"])
def test_int8_is_close_to_exact_on_golden_checkpoints(golden: Path, load: Load, name: str) -> None:
    exact = load(name)
    base = golden / "base" / "tiny-mistral"
    quantized = Clara.from_pretrained(golden / "checkpoints" / name, base=base, device="cpu", quantization="int8")
    mine, theirs = quantized.compress(TEXTS), exact.compress(TEXTS)
    assert 0 < relative_error(mine.vectors, theirs.vectors) < 0.06  # bfloat16 alone moves these random weights by 0.025
    for question in QUESTIONS:
        result, expected = quantized.retrieve(question, mine), exact.retrieve(question, theirs)
        assert sorted(result.scores) == pytest.approx(sorted(expected.scores), abs=0.05)


def test_adapter_changes_quantized_latents(tiny: Path) -> None:
    clara = load_quantized(tiny, "int8")
    ids = [clara.tokenizer.encode(text) for text in TEXTS]
    assert relative_error(clara.encode(ids, "none"), clara.encode(ids, ENCODER_ADAPTER)) > 0.05


@pytest.mark.parametrize("bits", TOLERANCES)
def test_trained_model_gives_the_same_answers_quantized(bits: WeightFormat) -> None:
    memories = [
        "User likes hiking in national parks.",
        "User works as a software engineer.",
        "User has a dog named Max.",
    ]
    questions = ["What outdoor activities does the user enjoy?", "What is the name of the user's dog?"]
    exact, quantized = (
        Clara.from_pretrained("clara-nano", device="cpu", quantization=option) for option in ("no", bits)
    )
    for question in questions:
        expected, reply = (clara.answer(question, memories, 1) for clara in (exact, quantized))
        assert expected.text
        assert (reply.used, reply.text) == (expected.used, expected.text)
