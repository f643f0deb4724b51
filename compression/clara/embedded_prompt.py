"""A prompt that is laid out here and decoded by another engine, and the canary that compares the two engines.

The other engine gets input embeddings, never text: no text is read as a special token there, and the memories need no
place in its vocabulary.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..models.errors import ModelError
from .checkpoint import DECODER_ADAPTER

if TYPE_CHECKING:
    from .clara import Clara
    from .decoding import FinishReason, TextStream
    from .replies import PreparedPrompt, Reply

MAX_PAYLOAD_BYTES = 64 << 20  # a prompt of 1,024 positions has 16 MiB in float32 at a hidden size of 4,096
CANARY_TEXT = "The mill at <prompt_embeds> was built in 1874 </s> by <MEM0> Ada Brandt."
CANARY_QUESTION = "Who built the mill at <prompt_embeds>?"
_MIN_EFFECT = 0.2  # of the adapter on log probabilities; a smaller one does not show whether it is applied


@dataclass(frozen=True, slots=True)
class EmbeddedPrompt:
    """A prepared prompt with its model."""

    clara: "Clara"
    prompt: "PreparedPrompt"

    @property
    def positions(self) -> int:
        """Return the number of positions of the prompt."""
        return len(self.prompt.plan.ids)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Return the ids that end an answer."""
        return self.clara.model.base.config.eos_ids

    @property
    def banned_answer(self) -> tuple[int, ...]:
        """Return the ids that the answer must not begin with; may be empty."""
        return self.prompt.abstention_ids if self.prompt.is_decoded else ()

    def encode(self, tokens: Sequence[int] = ()) -> str:
        """Return the embeddings [T, H] of the prompt and `tokens` after it, as base64 of a file of `torch.save`.

        Raises `ModelError` if they are larger than `MAX_PAYLOAD_BYTES`.
        """
        embeddings: torch.Tensor = self.prompt.input_embeddings
        if tokens:
            embeddings = self.clara.model.extend_prompt(embeddings, tokens)
        if embeddings.nbytes > MAX_PAYLOAD_BYTES:
            raise ModelError(f"the prompt has {embeddings.nbytes:,} bytes; at most {MAX_PAYLOAD_BYTES:,} are sent")
        file = io.BytesIO()
        torch.save(embeddings.detach().cpu().clone(), file)
        return base64.b64encode(file.getbuffer()).decode("ascii")

    def text_stream(self) -> "TextStream":
        """Return a converter of ids to pieces of text."""
        return self.clara.text_stream()

    def build_reply(self, tokens: Sequence[int], finish: "FinishReason") -> "Reply":
        """Return the reply with these ids; they exclude the end token."""
        from .decoding import GeneratedRow  # noqa: PLC0415 - only here

        return self.clara.build_reply(self.prompt, GeneratedRow(len(tokens), list(tokens), finish))


class Canary(NamedTuple):
    """A prompt as base64, and this engine's log probabilities [V] of its next id, with and without the adapter."""

    payload: str
    hidden_size: int
    memory_tokens: int
    with_adapter: torch.Tensor
    without_adapter: torch.Tensor

    def describe_difference(self, log_probabilities: Mapping[int, float], tolerance: float) -> str:
        """Describe the difference from another engine's log probabilities (nats, by id); "" if it is small."""
        size = len(self.with_adapter)
        ids = [index for index in log_probabilities if 0 <= index < size]
        if not ids or len(ids) < len(log_probabilities):
            return "its vocabulary is not this checkpoint's"
        theirs = torch.tensor([log_probabilities[index] for index in ids])
        distance, without, effect = (
            float((left - right).abs().mean())
            for left, right in (
                (theirs, self.with_adapter[ids]),
                (theirs, self.without_adapter[ids]),
                (self.with_adapter[ids], self.without_adapter[ids]),
            )
        )
        if effect > _MIN_EFFECT and without < distance:
            return "it does not apply the adapter"
        if distance > tolerance:
            return f"its log probabilities differ by {distance:.2f} from this checkpoint's: export the model again"
        return ""


def build_canary(clara: "Clara") -> Canary:
    """Return the canary of a model; its text spells special tokens of other engines."""
    prepared = clara.prepare_answer(CANARY_QUESTION, clara.compress([CANARY_TEXT]))
    with_adapter, without_adapter = (
        torch.log_softmax(clara.model.prefill([prepared.input_embeddings], adapter)[0][0].float(), dim=-1).cpu()
        for adapter in (DECODER_ADAPTER, "")
    )
    return Canary(
        EmbeddedPrompt(clara, prepared).encode(),
        clara.model.base.config.hidden_size,
        clara.config.memory_tokens,
        with_adapter,
        without_adapter,
    )
