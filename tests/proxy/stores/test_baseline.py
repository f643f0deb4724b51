"""The baseline against a simulated provider cache, with and without the proxy."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_proxy.proxy.stores.baseline import (
    CACHE_STEP_TOKENS,
    MIN_CACHED_TOKENS,
    Prompt,
    PromptPart,
    estimate_baseline,
)
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.tests.proxy.stores.usages import COUNT, usages

SIZES = st.integers(0, 3_000)


@dataclass(frozen=True)
class Conversation:
    """A conversation: its elements, and the tokens before the first one as received and sent."""

    head: tuple[int, int]
    parts: list[PromptPart]

    @property
    def ends(self) -> list[tuple[int, int]]:
        """The ends of the earlier prompts and of the last one, in tokens as received and as sent."""
        received, sent = self.head
        ends: list[tuple[int, int]] = []
        for part in self.parts:
            if part.starts_reply:
                ends.append((received, sent))
            received, sent = received + part.received, sent + part.sent
        return [*ends, (received, sent)]

    def prompt(self, *, exact: bool = True, marked: bool | None = None, rewritten: bool = False) -> Prompt:
        received, sent = self.ends[-1]
        return Prompt(received, sent, exact, lambda: iter(self.parts[::-1]), marked, rewritten)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns of replies and long tool outputs, some of which are compressed."""
    tool = draw(st.integers(0, 100))
    head = draw(SIZES)
    task = draw(st.integers(1, 2_000))
    parts = [PromptPart(task, task, starts_reply=False)]
    for _ in range(draw(st.integers(0, 6))):
        reply = draw(st.integers(1, 400))
        parts.append(PromptPart(reply, reply, starts_reply=True))
        for _ in range(draw(st.integers(1, 3))):
            output = draw(st.integers(1, 6_000))
            compressed = draw(st.integers(1, output)) if draw(st.booleans()) else output
            parts.append(PromptPart(output, compressed, starts_reply=False))
    return Conversation((head, head + tool), parts)


def round_to_cache_step(tokens: int) -> int:
    return tokens // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if tokens >= MIN_CACHED_TOKENS else 0


@given(conversations())
def test_openai_cache_reads_are_exact_in_a_warm_cache(conversation: Conversation) -> None:
    *earlier, (received, sent) = conversation.ends
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    usage = Usage(sent, 7, None, round_to_cache_step(before_sent))
    baseline = estimate_baseline(usage, conversation.prompt(), has_cache_rate=True)
    assert baseline == Usage(received, 7, None, round_to_cache_step(before_received))


@given(conversations())
def test_openai_cache_reads_are_exact_in_a_cold_cache(conversation: Conversation) -> None:
    *earlier, (received, sent) = conversation.ends
    baseline = estimate_baseline(Usage(sent, 7, None, 0), conversation.prompt(), has_cache_rate=True)
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    # The bill cannot tell if a prompt below the minimum was sent before; it counts as cached.
    assert baseline == Usage(
        received, 7, None, round_to_cache_step(before_received) if before_sent < MIN_CACHED_TOKENS else 0
    )


@given(conversations(), st.sampled_from([1024, 4096]))
def test_anthropic_cache_reads_are_exact_in_a_warm_cache(conversation: Conversation, minimum: int) -> None:
    *earlier, (received, sent) = conversation.ends
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    read = before_sent if before_sent >= minimum else 0
    write = sent - read if sent >= minimum else 0
    baseline = estimate_baseline(
        Usage(sent, 7, None, read, write),
        conversation.prompt(marked=True),
        has_cache_rate=True,
        min_cached_tokens=minimum,
    )
    would_read = before_received if before_received >= minimum else 0
    assert (baseline.input, baseline.cache_read) == (received, would_read)
    # A prompt below the minimum writes nothing, with the proxy or without it.
    assert baseline.cache_write == (received - would_read if min(received, sent) >= minimum else 0)


@given(conversations())
def test_anthropic_caches_nothing_without_breakpoints(conversation: Conversation) -> None:
    *_, (received, sent) = conversation.ends
    baseline = estimate_baseline(Usage(sent, 7, None, 0, 0), conversation.prompt(marked=False), has_cache_rate=True)
    assert baseline == Usage(received, 7, None, 0, 0)


@given(conversations())
def test_rewritten_messages_count_as_cached(conversation: Conversation) -> None:
    *earlier, (received, sent) = conversation.ends
    baseline = estimate_baseline(Usage(sent, 7, None, 0), conversation.prompt(rewritten=True), has_cache_rate=True)
    assert baseline == Usage(received, 7, None, round_to_cache_step(earlier[-1][0]) if earlier else 0)


@given(conversations(), st.floats(0.8, 1.4))
def test_estimated_tokens_are_scaled_to_the_bill(conversation: Conversation, factor: float) -> None:
    *earlier, (received, sent) = conversation.ends
    billed = round(factor * sent)
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    usage = Usage(
        billed, 7, None, read := round(factor * before_sent) if before_sent >= MIN_CACHED_TOKENS else 0, billed - read
    )
    baseline = estimate_baseline(usage, conversation.prompt(exact=False, marked=True), has_cache_rate=True)
    rounding = 2 + received / max(sent, 1)  # the bill is rounded to whole tokens, and scaled by the saving
    assert baseline.input == pytest.approx(factor * received, rel=0.01, abs=rounding)
    if read and factor * before_received > MIN_CACHED_TOKENS + 16:
        assert baseline.cache_read == pytest.approx(factor * before_received, rel=0.01, abs=2)


@given(conversations(), st.integers(0, 100_000))
def test_images_do_not_change_the_difference(conversation: Conversation, image: int) -> None:
    *_, (received, sent) = conversation.ends
    baseline = estimate_baseline(Usage(sent + image, 7, None, 0), conversation.prompt(), has_cache_rate=True)
    assert baseline.input == received + image


@given(conversations(), usages(), st.booleans(), st.sampled_from([None, True, False]), st.booleans(), st.booleans())
def test_any_bill_gives_a_valid_baseline(
    conversation: Conversation, usage: Usage, exact: bool, marked: bool | None, rewritten: bool, caches: bool
) -> None:
    baseline = estimate_baseline(
        usage, conversation.prompt(exact=exact, marked=marked, rewritten=rewritten), has_cache_rate=caches
    )
    assert baseline.input is not None
    assert (baseline.output, baseline.reasoning) == (usage.output, usage.reasoning)
    assert min(baseline.input, baseline.cache_read or 0, baseline.cache_write or 0) >= 0
    assert (baseline.cache_read or 0) + (baseline.cache_write or 0) <= baseline.input
    assert (baseline.cache_write_hour or 0) <= (baseline.cache_write or 0)


@given(conversations(), st.integers(0, 200))
def test_an_unchanged_prompt_keeps_its_bill(conversation: Conversation, cached: int) -> None:
    unchanged = Conversation(
        (conversation.head[0], conversation.head[0]), [part._replace(sent=part.received) for part in conversation.parts]
    )
    *_, (_, sent) = unchanged.ends
    usage = Usage(sent, 7, None, min(cached * CACHE_STEP_TOKENS, sent // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS))
    if (usage.cache_read or 0) >= MIN_CACHED_TOKENS:
        assert estimate_baseline(usage, unchanged.prompt(), has_cache_rate=True) == usage


@given(conversations(), COUNT)
def test_without_a_reported_cache_saved_tokens_count_as_cached(conversation: Conversation, billed: int) -> None:
    *_, (received, sent) = conversation.ends
    baseline = estimate_baseline(Usage(billed, 7), conversation.prompt(), has_cache_rate=True)
    saved = received - sent
    assert baseline == Usage(max(0, billed + saved), 7, None, saved if saved > 0 else None)
    assert estimate_baseline(Usage(billed, 7), conversation.prompt(), has_cache_rate=False) == Usage(
        max(0, billed + saved), 7
    )


def test_without_a_bill_there_is_no_baseline() -> None:
    assert estimate_baseline(Usage(), Conversation((0, 0), []).prompt(), has_cache_rate=True) == Usage()


def test_only_the_needed_parts_are_counted() -> None:
    positions: list[int] = []

    def parts() -> Iterator[PromptPart]:
        for position in range(1_000):
            positions.append(position)
            yield PromptPart(100, 50, starts_reply=position % 2 == 0)

    estimate_baseline(
        Usage(50_000, 7, None, 49_664), Prompt(100_000, 50_000, is_exact=True, iter_parts=parts), has_cache_rate=True
    )
    assert len(positions) < 20
