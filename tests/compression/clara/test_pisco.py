"""PISCO checkpoints: equality with a literal forward pass in float64, and the limits of the family.

The reference here follows the published layout step by step, without batches, caches or shared code: padded rows of
131 text ids, one head and one position after the other, whole prompts read again for every token.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from tokenizers import AddedToken, Tokenizer
from torch import Tensor

from clara_proxy.compression.clara import locate
from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.compression.models.errors import CheckpointError, ModelError
from clara_proxy.tests.compression.clara.tiny import LAYERS, MEMORIES, make_pisco_checkpoint, write_pisco

TEXT_TOKENS, TOLERANCE = 128, 1e-5
SYSTEM = (
    "You are a helpful assistant. Your task is to extract relevant information from provided documents and to answer "
    "to questions as briefly as possible."
)
DOCUMENTS = ["the fox crossed the river", "the lamp on the stone bridge, the answer in the document. " * 3]
QUESTION = "Who crossed the river?"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pisco_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def pisco(tiny: Path) -> Clara:
    return Clara.from_pretrained(tiny / "pisco", base=tiny / "base", device="cpu", dtype="float32")


class LiteralModel:
    """Mistral with one adapter at a time, in float64."""

    def __init__(self, tiny: Path, checkpoint: str = "pisco") -> None:
        folder = tiny / checkpoint
        self.config = json.loads((tiny / "base" / "config.json").read_text())
        self.weights = {name: value.double() for name, value in load_file(tiny / "base" / "model.safetensors").items()}
        self.adapters: Any = torch.load(folder / "adapters.pth", weights_only=True)
        ends = torch.load(folder / "decoder_first_last_layers.pth", weights_only=True)
        self.embed, self.head = ends["model.embed_tokens.weight"].double(), ends["lm_head.weight"].double()
        self.tokenizer = Tokenizer.from_file(str(tiny / "base" / "tokenizer.json"))
        self.memory_names = [f"<MEM{index}>" for index in range(MEMORIES)]
        added = [*self.memory_names, "<AE>", "<ENC>", "<SEP>"]
        for name in added:
            self.tokenizer.add_special_tokens(  # pyright: ignore[reportUnknownMemberType]
                [AddedToken(name, special=True, normalized=False)]
            )

    def encode_text(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def linear(self, name: str, x: Tensor, adapter: str) -> Tensor:
        pair = self.adapters[adapter]
        down, up = pair[f"{name}.lora_A.weight"].double(), pair[f"{name}.lora_B.weight"].double()
        low_rank: Tensor = up @ (down @ x)
        return self.weights[f"{name}.weight"] @ x + 2.0 * low_rank

    def norm(self, x: Tensor, name: str) -> Tensor:
        return self.weights[f"{name}.weight"] * x / torch.sqrt((x * x).mean() + self.config["rms_norm_eps"])

    def rotate(self, x: Tensor, position: int) -> Tensor:
        half = len(x) // 2
        theta = self.config["rope_parameters"]["rope_theta"]
        out = x.clone()
        for index in range(half):
            angle = position / theta ** (2 * index / len(x))
            cos, sin = math.cos(angle), math.sin(angle)
            out[index] = x[index] * cos - x[index + half] * sin
            out[index + half] = x[index + half] * cos + x[index] * sin
        return out

    def attend(self, prefix: str, states: list[Tensor], padding: int, adapter: str) -> list[Tensor]:
        """Return the attention's output at each position; the first `padding` positions are masked."""
        heads, key_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        size = self.config["hidden_size"] // heads
        q, k, v = (
            [self.linear(f"{prefix}.{name}", x, adapter).view(-1, size) for x in states]
            for name in ("q_proj", "k_proj", "v_proj")
        )
        q = [torch.stack([self.rotate(head, position) for head in row]) for position, row in enumerate(q)]
        k = [torch.stack([self.rotate(head, position) for head in row]) for position, row in enumerate(k)]
        outputs: list[Tensor] = []
        for position in range(len(states)):
            parts: list[Tensor] = []
            for head in range(heads):
                shared = head // (heads // key_heads)
                first = min(padding, position)  # a padded position attends to itself only: nothing reads it
                keys = torch.stack([k[other][shared] for other in range(first, position + 1)])
                values = torch.stack([v[other][shared] for other in range(first, position + 1)])
                parts.append(torch.softmax(keys @ q[position][head] / math.sqrt(size), dim=0) @ values)
            outputs.append(self.linear(f"{prefix}.o_proj", torch.cat(parts), adapter))
        return outputs

    def run(self, embeddings: list[Tensor], padding: int, adapter: str) -> list[Tensor]:
        """Return the last hidden states, after the final norm."""
        states = embeddings
        for layer in range(LAYERS):
            stem = f"model.layers.{layer}"
            normed = [self.norm(x, f"{stem}.input_layernorm") for x in states]
            attention = self.attend(f"{stem}.self_attn", normed, padding, adapter)
            states = [x + out for x, out in zip(states, attention, strict=True)]
            for position, x in enumerate(states):
                y = self.norm(x, f"{stem}.post_attention_layernorm")
                gate = self.linear(f"{stem}.mlp.gate_proj", y, adapter)
                up = self.linear(f"{stem}.mlp.up_proj", y, adapter)
                activated = gate / (1 + torch.exp(-gate)) * up
                states[position] = x + self.linear(f"{stem}.mlp.down_proj", activated, adapter)
        return [self.norm(x, "model.norm") for x in states]

    def compress(self, text: str, adapter: str = "encoder_adapter") -> Tensor:
        """Return the memories [8, H]: a row of 131 ids, padded on the left with `<s>`, and the memory tokens."""
        ids = self.encode_text(f"<ENC><s>{text}</s>")[: TEXT_TOKENS + 3]
        padding = TEXT_TOKENS + 3 - len(ids)
        row = [1] * padding + ids + self.encode_text("".join(self.memory_names))
        return torch.stack(self.run([self.embed[token] for token in row], padding, adapter)[-MEMORIES:])

    def generate(self, question: str, memories: list[Tensor], count: int) -> tuple[list[int], Tensor]:
        """Return the greedy tokens and the logits of the first one."""
        slots = ("".join(self.memory_names) + "<SEP>") * len(memories)
        ids = self.encode_text(f"<s> [INST] {SYSTEM}\n\nBackground:\n{slots}\n\nQuestion:{question} [/INST]")
        embeddings = [self.embed[token] for token in ids]
        start = ids.index(self.encode_text("<MEM0>")[0])
        for document, memory in enumerate(memories):
            for index in range(MEMORIES):
                embeddings[start + document * (MEMORIES + 1) + index] = memory[index]
        tokens: list[int] = []
        first = torch.zeros(0)
        while len(tokens) < count:
            logits = self.head @ self.run(embeddings, 0, "decoder_adapter")[-1]
            first = logits if not tokens else first
            token = int(logits.argmax())
            if token == 2:
                break
            tokens.append(token)
            embeddings.append(self.embed[token])
        return tokens, first


def test_memories_equal_the_literal_forward_pass(tiny: Path, pisco: Clara) -> None:
    literal = LiteralModel(tiny)
    vectors = pisco.compress(DOCUMENTS).vectors
    assert vectors.shape == (2, MEMORIES, 32)
    for text, memory in zip(DOCUMENTS, vectors, strict=True):
        assert float((memory.double() - literal.compress(text)).abs().max()) < TOLERANCE


def test_long_document_becomes_windows_of_128_tokens(tiny: Path, pisco: Clara) -> None:
    text = "the fox and the stone. " * 40
    latents = pisco.compress([text])
    assert len(latents) > 1
    assert max(latents.token_counts) <= TEXT_TOKENS
    literal = LiteralModel(tiny)
    assert float((latents.vectors[1].double() - literal.compress(latents.texts[1])).abs().max()) < TOLERANCE
    as_reference = Clara.from_pretrained(
        tiny / "pisco", base=tiny / "base", device="cpu", dtype="float32", compat=Compat(long_text="cut")
    )
    cut = as_reference.compress([text])
    assert float((cut.vectors[0].double() - literal.compress(text)).abs().max()) < TOLERANCE


def test_answer_equals_the_literal_forward_pass(tiny: Path, pisco: Clara) -> None:
    literal = LiteralModel(tiny)
    tokens, logits = literal.generate(QUESTION, [literal.compress(text) for text in DOCUMENTS], 2)
    (reply,) = pisco.replies([QUESTION], [DOCUMENTS], 2)
    assert list(reply.tokens) == tokens
    assert reply.used == (0, 1)
    prepared = pisco.prepare_answer(QUESTION, pisco.compress(DOCUMENTS))
    first, _ = pisco.model.prefill([prepared.input_embeddings], "decoder_adapter")
    assert float((first[0].double() - logits).abs().max() / logits.abs().max()) < TOLERANCE


def test_one_adapter_trained_for_both_also_encodes(tiny: Path, tmp_path: Path) -> None:
    adapters: dict[str, Any] = torch.load(tiny / "pisco" / "adapters.pth", weights_only=True)
    decoder_only = {"decoder_adapter": adapters["decoder_adapter"]}
    folder = write_pisco(tmp_path / "one", tiny / "pisco", decoder_only, training_form="both")
    clara = Clara.from_pretrained(folder, base=tiny / "base", device="cpu", dtype="float32")
    expected = LiteralModel(tiny).compress(DOCUMENTS[0], "decoder_adapter")
    assert float((clara.compress(DOCUMENTS[:1]).vectors[0].double() - expected).abs().max()) < TOLERANCE
    separate = write_pisco(tmp_path / "two", tiny / "pisco", decoder_only)
    with pytest.raises(CheckpointError, match="has no encoder_adapter"):
        Clara.from_pretrained(separate, base=tiny / "base", device="cpu")


def test_prompts_are_as_long_as_in_training(pisco: Clara) -> None:
    assert pisco.compat.max_prompt_tokens == 2048
    assert not pisco.can_retrieve


def test_it_does_not_paraphrase(pisco: Clara) -> None:
    with pytest.raises(ModelError, match="not learned to paraphrase"):
        pisco.paraphrase([DOCUMENTS])


def test_compressor_network_of_its_own_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = write_pisco(tmp_path / "oscar", tiny / "pisco", {}, compr_model_name="mistral_trimmed")
    with pytest.raises(CheckpointError, match=r"compr_model_name is 'mistral_trimmed'.*OSCAR"):
        Clara.from_pretrained(folder, base=tiny / "base", device="cpu")


def test_repository_without_subfolders_is_found(tiny: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--naver--tiny"
    shutil.copytree(tiny / "pisco", home / "snapshots" / "0123abcd")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123abcd")
    access = locate.HubAccess(tmp_path, may_download=False)
    folder = locate.find_checkpoint_folder("naver/tiny", None, access)
    assert (folder / "adapters.pth").is_file()
    assert locate.find_rates("naver/tiny", None, access) == {16: None}
    with pytest.raises(CheckpointError):
        locate.find_checkpoint_folder("naver/tiny", "compression-16", access)
