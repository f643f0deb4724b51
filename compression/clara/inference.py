"""The interface between `Clara` and the library that computes: torch or MLX. Importing it loads neither.

Shapes: T positions, H hidden size, V vocabulary, M memory tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from .decoder_config import DecoderConfig

Array = Any  # a torch.Tensor with torch; a numpy.ndarray or an mlx.core.array with MLX


class RowCache(Protocol):
    """The keys and values of a running batch."""

    def append_rows(self, other: Any, /) -> None:
        """Append the rows of another cache."""
        ...

    def select_rows(self, rows: Sequence[int], /) -> None:
        """Keep these rows only."""
        ...


class InferenceBase(Protocol):
    """The base model of an `InferenceModel`; `device` and `dtype` have readable names."""

    @property
    def config(self) -> DecoderConfig:
        """Return the dimensions."""
        ...

    @property
    def device(self) -> Any:
        """Return the device."""
        ...

    @property
    def dtype(self) -> Any:
        """Return the number format of activations."""
        ...


class InferenceModel(Protocol):
    """A loaded model. Its arrays are numpy's or its library's; methods of one model accept what the others return."""

    @property
    def base(self) -> InferenceBase:
        """Return the base model."""
        ...

    @property
    def embed(self) -> Array:
        """Return the input embeddings [V, H]."""
        ...

    @property
    def head(self) -> Array:
        """Return the output matrix [V, H]."""
        ...

    @property
    def adapters(self) -> Mapping[str, Any]:
        """Return the adapters by name."""
        ...

    @property
    def max_batch_positions(self) -> int:
        """Return the most positions of one forward pass, padding included."""
        ...

    @property
    def uses_accelerator(self) -> bool:
        """Return True if the model runs on a device other than the CPU."""
        ...

    def truncate(self, depth: int) -> "InferenceModel":
        """Return the model's first `depth` layers: its `prefill` returns normalised states [B, H] for logits."""
        ...

    def encode(self, rows: Sequence[Sequence[int]], memories: int, adapter: str) -> Array:
        """Return the last hidden states [rows, M, H] at each row's last `memories` ids, in the order of `rows`."""
        ...

    def stack(self, memories: Sequence[Array]) -> Array:
        """Return memories [M, H], of this model or of a store, as one array [memories, M, H] of this model."""
        ...

    def score_cosine(self, query: Array, memories: Array) -> list[float]:
        """Return the cosine (-1 to 1) of each of the memories [memories, M, H] to a query [windows, M * H].

        The nearest window counts.
        """
        ...

    def embed_prompt(self, ids: Sequence[int], slots: Sequence[int], memories: Array) -> Array:
        """Return a prompt's input embeddings [T, H]: those of `ids`, with memory j [M, H] from slots[j] on."""
        ...

    def extend_prompt(self, prompt: Array, ids: Sequence[int]) -> Array:
        """Return a prompt's input embeddings [T, H] followed by those of `ids`."""
        ...

    def prefill(self, prompts: Sequence[Array], adapter: str) -> tuple[Array, Any]:
        """Read prompts [T_i, H] together; return the logits [B, V] of their next tokens, and the cache."""
        ...

    def step(self, tokens: Sequence[int], cache: Any, adapter: str) -> Array:
        """Read one more token per row and add it to the cache; return the logits [B, V] after it."""
        ...


def group_by_length(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield groups of rows of similar length: padded, at most `budget` positions and `budget // 8` of padding each."""
    group: list[int] = []
    real = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        padded = length * (len(group) + 1)
        if group and (padded > budget or padded - real - length > budget // 8):
            yield group
            group, real = [], 0
        group.append(index)
        real += length
    if group:
        yield group


def pick_first_group(rows: Mapping[str, Sequence[int]], extra: int, budget: int) -> list[str]:
    """Return the keys of the rows in the first of the groups by length; each row gets `extra` more positions."""
    keys = list(rows)
    return [keys[index] for index in next(group_by_length([len(ids) + extra for ids in rows.values()], budget))]
