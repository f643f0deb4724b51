"""Lays out a request as ids and memory slots, without tensors.

The question is never cut. If there are more memories than slots, the caller's ranking chooses among them, and the plan
lists those left out.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..models.errors import ModelError
from .prompts import Prompt
from .tokenizer import ClaraTokenizer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Compat:
    """Compatibility with the reference, which loses text; the defaults lose none.

    `long_text`: "split" reads a long document in windows; "cut" drops its tail, and that of a prompt, like the
    reference. `special_text`: "plain" reads `</s>` in a text as characters, "parse" as the token.
    `skip_decoder_adapter`: ignore the decoder adapter of an Instruct checkpoint, like Apple's loader.
    `max_prompt_tokens`: CLaRa was trained with 1024, PISCO with 2048.
    """

    long_text: Literal["split", "cut"] = "split"
    special_text: Literal["plain", "parse"] = "plain"
    skip_decoder_adapter: bool = False
    max_prompt_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """A prompt's `ids`, the position of each slot's first memory token, its memory, and the memories left out."""

    ids: tuple[int, ...]
    slot_positions: tuple[int, ...]
    used: tuple[int, ...]
    left_out: tuple[int, ...]


def plan_prompt(
    prompt: Prompt,
    order: Sequence[int],
    choose_memories: Callable[[int], Sequence[int]],
    tokenizer: ClaraTokenizer,
    compat: Compat,
) -> PromptPlan:
    """Lay out a prompt with memories in this order, or with `choose_memories(n)` if only n fit.

    Raises `ModelError` if the prompt's text alone is too long, or leaves no room for a memory.
    """
    head, tail = _tokenize_prompt(prompt, tokenizer, parse=compat.special_text == "parse", empty=not order)
    width = len(tokenizer.memory_ids) + 1
    room = (compat.max_prompt_tokens - 1 - len(head) - len(tail)) // width
    if compat.long_text == "cut":
        return _truncate_plan(_build_plan(head, tail, order, tokenizer), compat.max_prompt_tokens, width)
    if room < min(len(order), 1):
        raise ModelError(
            f"the question's prompt has {1 + len(head) + len(tail)} of at most {compat.max_prompt_tokens} tokens: "
            f"no room for a memory of {width}"
        )
    if len(order) <= room:
        return _build_plan(head, tail, order, tokenizer)
    used = list(choose_memories(room))
    left_out = tuple(index for index in order if index not in set(used))
    _log.warning("%d of %d memories do not fit into the prompt and were left out", len(left_out), len(order))
    plan = _build_plan(head, tail, used, tokenizer)
    return PromptPlan(plan.ids, plan.slot_positions, plan.used, left_out)


def _tokenize_prompt(
    prompt: Prompt, tokenizer: ClaraTokenizer, *, parse: bool, empty: bool
) -> tuple[list[int], list[int]]:
    if empty:  # without slots between them, head and tail are one text
        return tokenizer.encode(prompt.head + prompt.tail, parse_special=parse), []
    return tokenizer.encode(prompt.head), tokenizer.encode(prompt.tail, parse_special=parse)


def _build_plan(
    head: Sequence[int], tail: Sequence[int], order: Sequence[int], tokenizer: ClaraTokenizer
) -> PromptPlan:
    slot = (*tokenizer.memory_ids, tokenizer.sep_id)
    positions = tuple(1 + len(head) + index * len(slot) for index in range(len(order)))
    return PromptPlan((tokenizer.bos_id, *head, *slot * len(order), *tail), positions, tuple(order), ())


def _truncate_plan(plan: PromptPlan, limit: int, width: int) -> PromptPlan:
    if plan.slot_positions and plan.slot_positions[-1] + width - 1 > limit:
        raise ModelError(f"{len(plan.slot_positions)} memories do not fit into {limit} tokens")
    return PromptPlan(plan.ids[:limit], plan.slot_positions, plan.used, ())
