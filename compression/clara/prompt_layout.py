"""A request laid out as ids and memory slots, before any tensor is touched.

The question is never cut. When there are more memories than slots, the caller's ranking chooses, and what was left out
is part of the plan.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .exceptions import ClaraError
from .prompts import Prompt
from .tokenizer import ClaraTokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compat:
    """How far to follow the reference where it loses text; the defaults lose nothing.

    `long_text`: "split" reads a long document in windows, "cut" drops its tail as the reference does, prompts too.
    `special_text`: "plain" reads `</s>` in a text as characters, "parse" as the token.
    `as_released`: leave out the trained decoder adapter of an Instruct checkpoint, as Apple's own loader does.
    `prompt_limit`: the most ids a prompt may have; the models were trained with 1024.
    """

    long_text: Literal["split", "cut"] = "split"
    special_text: Literal["plain", "parse"] = "plain"
    skip_decoder_adapter: bool = False
    max_prompt_tokens: int = 1024


REFERENCE_COMPAT = Compat(long_text="cut", special_text="parse")


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """A prompt's `ids`, the place of each slot's first memory token, which memory fills it, and who was left out."""

    ids: tuple[int, ...]
    slot_positions: tuple[int, ...]
    used: tuple[int, ...]
    left_out: tuple[int, ...]


def plan_prompt(
    prompt: Prompt,
    order: Sequence[int],
    choose_memories: Callable[[int], Sequence[int]],
    vocabulary: ClaraTokenizer,
    compat: Compat,
) -> PromptPlan:
    """Lay out a prompt with memories in this order; when only n fit, with `choose(n)` of them.

    Raises `ClaraError` when the words of the prompt alone are too long, or when not even one memory fits.
    """
    head, tail = _tokenize_prompt(prompt, vocabulary, parse=compat.special_text == "parse", empty=not order)
    width = len(vocabulary.memory_ids) + 1
    room = (compat.max_prompt_tokens - 1 - len(head) - len(tail)) // width
    if compat.long_text == "cut":
        return _truncate_plan(_build_plan(head, tail, order, vocabulary), compat.max_prompt_tokens, width)
    if room < min(len(order), 1):
        raise ClaraError(
            f"the question's prompt has {1 + len(head) + len(tail)} tokens, {compat.max_prompt_tokens} is the limit: "
            f"no room for a memory of {width}"
        )
    if len(order) <= room:
        return _build_plan(head, tail, order, vocabulary)
    used = list(choose_memories(room))
    left_out = tuple(index for index in order if index not in set(used))
    _log.warning("%d of %d memories do not fit into the prompt and were left out", len(left_out), len(order))
    plan = _build_plan(head, tail, used, vocabulary)
    return PromptPlan(plan.ids, plan.slot_positions, plan.used, left_out)


def _tokenize_prompt(
    prompt: Prompt, vocabulary: ClaraTokenizer, *, parse: bool, empty: bool
) -> tuple[list[int], list[int]]:
    if empty:  # without slots between them the two are one text
        return vocabulary.encode(prompt.head + prompt.tail, parse_special=parse), []
    return vocabulary.encode(prompt.head), vocabulary.encode(prompt.tail, parse_special=parse)


def _build_plan(
    head: Sequence[int], tail: Sequence[int], order: Sequence[int], vocabulary: ClaraTokenizer
) -> PromptPlan:
    slot = (*vocabulary.memory_ids, vocabulary.sep_id)
    slots = tuple(1 + len(head) + place * len(slot) for place in range(len(order)))
    return PromptPlan((vocabulary.bos_id, *head, *slot * len(order), *tail), slots, tuple(order), ())


def _truncate_plan(plan: PromptPlan, limit: int, width: int) -> PromptPlan:
    if plan.slot_positions and plan.slot_positions[-1] + width - 1 > limit:
        raise ClaraError(f"{len(plan.slot_positions)} memories do not fit into {limit} tokens")
    return PromptPlan(plan.ids[:limit], plan.slot_positions, plan.used, ())
