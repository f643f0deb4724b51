"""CLaRa's forward passes in MLX, for Apple's GPUs; `model` has the same in torch.

Memories and logits are numpy arrays in float32. Prompts stay MLX's arrays. Rows are padded on the right: causal
attention never sees the padding, so positions start at 0.

Shapes: B rows, T positions, H hidden, N heads, K key heads, D head size, C capacity, M memory tokens, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from .decoder_config import DecoderConfig
from .inference import group_by_length
from .lora import SCALING, Adapter, LoraPair

Linear = Callable[[mx.array], mx.array]
_mx: Any = mx  # some of its functions have no types
_NO_ADAPTER: Mapping[str, LoraPair] = {}
_GROWTH = 64  # positions added to a cache at once


@dataclass(frozen=True, slots=True)
class MlxLayer:
    """One decoder layer: the weights [H] of its two norms, and its seven linear layers by name."""

    attention_norm: mx.array
    mlp_norm: mx.array
    linears: Mapping[str, Linear]


@dataclass(frozen=True, slots=True)
class MlxBase:
    """A base model without its vocabulary matrices; `dtype` is the name of the format of activations."""

    config: DecoderConfig
    layers: tuple[MlxLayer, ...]
    norm: mx.array
    dtype: str
    device: str = "mlx"


class MlxCache:
    """Keys and values [B, K, C, D] of each layer, and the number of valid positions of each row."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)
        self._layers: list[tuple[mx.array, mx.array]] = []

    def add_prompt_layer(self, keys: mx.array, values: mx.array) -> None:
        """Add the prompts' keys and values [B, K, T, D] of the next layer."""
        self._layers.append((_grow(keys, _GROWTH), _grow(values, _GROWTH)))

    def write(self, layer: int, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write keys and values [B, K, 1, D] at each row's next position; return both up to the longest row."""
        used = max(self.lengths) + 1
        if used > self._layers[layer][0].shape[2]:
            self._reserve(layer, used + _GROWTH - 1)
        stored_keys, stored_values = self._layers[layer]
        rows, positions = mx.arange(len(self.lengths)), mx.array(self.lengths)
        stored_keys[rows, :, positions] = keys[:, :, 0]
        stored_values[rows, :, positions] = values[:, :, 0]
        return stored_keys[:, :, :used], stored_values[:, :, :used]

    def close_slot(self) -> None:
        """Count the position just written."""
        self.lengths = [length + 1 for length in self.lengths]

    def append_rows(self, other: "MlxCache") -> None:
        """Append the rows of another cache."""
        capacity = max(self._layers[0][0].shape[2], other._layers[0][0].shape[2])
        pairs = [
            (self._reserve(layer, capacity), other._reserve(layer, capacity)) for layer in range(len(self._layers))
        ]
        self._layers = [
            (mx.concatenate([mine[0], theirs[0]]), mx.concatenate([mine[1], theirs[1]])) for mine, theirs in pairs
        ]
        self.lengths += other.lengths

    def select_rows(self, rows: Sequence[int]) -> None:
        """Keep these rows only."""
        index = mx.array(list(rows))
        self._layers = [(keys[index], values[index]) for keys, values in self._layers]
        self.lengths = [self.lengths[row] for row in rows]

    def _reserve(self, layer: int, capacity: int) -> tuple[mx.array, mx.array]:
        keys, values = self._layers[layer]
        if (more := capacity - keys.shape[2]) > 0:
            self._layers[layer] = (_grow(keys, more), _grow(values, more))
        return self._layers[layer]


AttentionFunction = Callable[[int, mx.array, mx.array, mx.array], mx.array]


@dataclass(frozen=True, slots=True)
class MlxModel:
    """The base weights, the vocabulary matrices `embed` and `head` [V, H], and the adapters by name."""

    base: MlxBase
    embed: mx.array
    head: mx.array
    adapters: Mapping[str, Adapter]
    max_batch_positions: int = 2048

    @property
    def uses_accelerator(self) -> bool:
        """Return True if the model runs on a GPU."""
        return mx.default_device() != mx.cpu

    def truncate(self, depth: int) -> "MlxModel":
        """Return the first `depth` layers: `prefill` then returns the normalised states [B, H] instead of logits."""
        base = replace(self.base, layers=self.base.layers[:depth])
        identity = mx.eye(base.config.hidden_size, dtype=self.embed.dtype)
        adapters = {name: adapter[:depth] for name, adapter in self.adapters.items()}
        return replace(self, base=base, head=identity, adapters=adapters)

    def encode(self, rows: Sequence[Sequence[int]], memories: int, adapter: str) -> NDArray[np.float32]:
        """Return the last hidden states [rows, M, H] at each row's last `memories` ids, in the order of `rows`."""
        out = np.empty((len(rows), memories, self.base.config.hidden_size), dtype=np.float32)
        for batch in group_by_length([len(row) for row in rows], self.max_batch_positions):
            longest = max(len(rows[index]) for index in batch)
            padded = [[*rows[index], *[0] * (longest - len(rows[index]))] for index in batch]
            states = self._run_layers(self.embed[mx.array(padded)], 0, adapter, self._attend_causally)  # [B, T, H]
            for row, index in enumerate(batch):
                end = len(rows[index])
                out[index] = _to_numpy(states[row, end - memories : end])  # [M, H]
        return out

    def stack(self, memories: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return memories [M, H] as one array [memories, M, H]."""
        return np.stack(memories)

    def score_cosine(self, query: NDArray[np.float32], memories: NDArray[np.float32]) -> list[float]:
        """Return the cosine of each of the memories [memories, M, H] to a query [windows, M * H]."""
        vectors = memories.reshape(len(memories), -1)
        scores = _scale_to_unit(query) @ _scale_to_unit(vectors).T  # [windows, memories]
        return [float(score) for score in scores.max(axis=0)]

    def embed_prompt(self, ids: Sequence[int], slots: Sequence[int], memories: NDArray[np.float32]) -> mx.array:
        """Return a prompt's input embeddings [T, H]: those of `ids`, with memory j [M, H] from slots[j] on."""
        x = self.embed[mx.array(list(ids))]  # [T, H]
        for slot, memory in zip(slots, memories, strict=True):
            x[slot : slot + len(memory)] = mx.array(memory).astype(x.dtype)
        return x

    def extend_prompt(self, prompt: mx.array, ids: Sequence[int]) -> mx.array:
        """Return a prompt's input embeddings [T, H] followed by those of `ids`."""
        return mx.concatenate([prompt, self.embed[mx.array(list(ids))]])

    def prefill(self, prompts: Sequence[mx.array], adapter: str) -> tuple[NDArray[np.float32], MlxCache]:
        """Read prompts [T_i, H] together; return the logits [B, V] of their next tokens, and the cache."""
        lengths = [len(prompt) for prompt in prompts]
        padded = [mx.pad(prompt, [(0, max(lengths) - len(prompt)), (0, 0)]) for prompt in prompts]
        cache = MlxCache(lengths)

        def attend(layer: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            cache.add_prompt_layer(k, v)
            return self._attend_causally(layer, q, k, v)

        states = self._run_layers(mx.stack(padded), 0, adapter, attend)  # [B, T, H]
        return self._logits(states[mx.arange(len(lengths)), mx.array(lengths) - 1]), cache

    def step(self, tokens: Sequence[int], cache: MlxCache, adapter: str) -> NDArray[np.float32]:
        """Read one more token per row and add it to the cache; return the logits [B, V] after it."""
        x = self.embed[mx.array(list(tokens))][:, None]  # [B, 1, H]
        positions = mx.array(cache.lengths)
        mask = (mx.arange(max(cache.lengths) + 1)[None] <= positions[:, None])[:, None, None]  # [B, 1, 1, used]

        def attend(layer: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
            keys, values = cache.write(layer, k, v)
            return mx.fast.scaled_dot_product_attention(q, keys, values, scale=q.shape[-1] ** -0.5, mask=mask)

        states = self._run_layers(x, positions, adapter, attend)
        cache.close_slot()
        return self._logits(states[:, 0])

    def _run_layers(self, x: mx.array, offset: int | mx.array, adapter: str, attend: AttentionFunction) -> mx.array:
        """Run all layers and the last norm, [B, T, H] -> [B, T, H]; `offset` is the first position, or one per row."""
        config, pairs = self.base.config, self.adapters.get(adapter)
        for index, layer in enumerate(self.base.layers):
            layer_pairs = pairs[index] if pairs is not None else _NO_ADAPTER
            states = mx.fast.rms_norm(x, layer.attention_norm, config.norm_eps)
            q, k, v = (
                mx.unflatten(_apply_lora(layer, name, states, layer_pairs), -1, (-1, config.head_dim)).swapaxes(1, 2)
                for name in ("q_proj", "k_proj", "v_proj")
            )  # [B, N or K, T, D]
            out = attend(index, self._rotate(q, offset), self._rotate(k, offset), v)  # [B, N, T, D]
            out = out.swapaxes(1, 2).flatten(2)
            x = x + _apply_lora(layer, "o_proj", out, layer_pairs)
            x = x + _mlp(mx.fast.rms_norm(x, layer.mlp_norm, config.norm_eps), layer, layer_pairs)
        return mx.fast.rms_norm(x, self.base.norm, config.norm_eps)

    def _rotate(self, x: mx.array, offset: int | mx.array) -> mx.array:
        config = self.base.config
        return mx.fast.rope(x, config.head_dim, traditional=False, base=config.rope_theta, scale=1.0, offset=offset)

    def _attend_causally(self, _layer: int, q: mx.array, k: mx.array, v: mx.array) -> mx.array:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask="causal")

    def _logits(self, states: mx.array) -> NDArray[np.float32]:
        return _to_numpy(states @ self.head.T)


def evaluate(*arrays: object) -> None:
    """Compute arrays now; MLX computes an array when its values are needed."""
    _mx.eval(*arrays)


def make_linear(weight: mx.array, bits: int | None) -> Linear:
    """Return x [..., in] -> [..., out] for a weight [out, in], stored with this many bits a number if quantized.

    A weight whose `in` is not a multiple of 32 is not quantized.
    """
    if bits is None or weight.shape[1] % 32:
        return lambda x: x @ weight.T
    size = 64 if weight.shape[1] % 64 == 0 else 32  # numbers that share a scale
    codes, scales, biases = mx.quantize(weight, group_size=size, bits=bits)
    evaluate(codes, scales, biases)
    return lambda x: mx.quantized_matmul(x, codes, scales, biases, group_size=size, bits=bits)


def _apply_lora(layer: MlxLayer, name: str, x: mx.array, pairs: Mapping[str, LoraPair]) -> mx.array:
    """Return W x, or W x + 2 B (A x); x [..., in] -> [..., out]."""
    out = layer.linears[name](x)
    pair = pairs.get(name)
    return out if pair is None else out + (x @ pair.down.T) @ pair.up.T * SCALING


def _mlp(x: mx.array, layer: MlxLayer, pairs: Mapping[str, LoraPair]) -> mx.array:
    gate = _apply_lora(layer, "gate_proj", x, pairs)
    gated = gate * mx.sigmoid(gate) * _apply_lora(layer, "up_proj", x, pairs)
    return _apply_lora(layer, "down_proj", gated, pairs)


def _grow(array: mx.array, positions: int) -> mx.array:
    return mx.pad(array, [(0, 0), (0, 0), (0, positions), (0, 0)])


def _scale_to_unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return vectors / lengths


def _to_numpy(array: mx.array) -> NDArray[np.float32]:
    values: Any = array.astype(mx.float32)
    return np.array(values)
