"""A request ready to decode, and the reply to it. Shapes: T positions, H hidden size."""

from dataclasses import dataclass

from .decoding import FinishReason
from .inference import Array
from .prompt_layout import PromptPlan


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """One request ready to decode: its input embeddings [T, H], its plan, and the scores of `plan.used` if retrieved.

    `abstention_ids` are the ids of the checkpoint's abstention, if it has one. If `should_abstain`, no memory is near
    enough to the question and they are the answer; otherwise they are banned. If `is_missing`, the abstention head says
    that the memories do not hold the answer, and nothing is decoded.
    """

    input_embeddings: Array
    plan: PromptPlan
    scores: tuple[float, ...] = ()
    abstention_ids: tuple[int, ...] = ()
    should_abstain: bool = False
    is_missing: bool = False

    @property
    def is_decoded(self) -> bool:
        """Return True if the decoder writes the answer."""
        return not (self.should_abstain or self.is_missing)

    @property
    def known_answer(self) -> tuple[int, ...]:
        """Return the ids of an answer that is not decoded."""
        return () if self.is_missing else self.abstention_ids

    def count_tokens(self, new_tokens: int) -> int:
        """Return the tokens that an answer costs: those read and written. The head reads the prompt, too."""
        if self.should_abstain:
            return 0
        return len(self.plan.ids) + new_tokens


@dataclass(frozen=True, slots=True)
class Reply:
    """CLaRa's answer and the memories it used.

    `tokens` are the new ids without the end token; `finish` is "length" if `max_new_tokens` ended the answer. `used`
    are indices of memories in slot order, `left_out` those without a slot; `scores` belong to `used` and are empty
    without retrieval. With `not_in_memory`, the abstention head says that the memories do not hold the answer, and the
    text is empty.
    """

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason
    used: tuple[int, ...]
    left_out: tuple[int, ...]
    scores: tuple[float, ...]
    prompt_tokens: int
    not_in_memory: bool = False
