"""What would have been billed, against a provider whose cache is played by its rules in both worlds."""

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
class Talk:
    """A conversation: the tokens before its first element as received and sent, its elements, where prompts ended."""

    head: tuple[int, int]
    parts: list[PromptPart]

    @property
    def ends(self) -> list[tuple[int, int]]:
        """Tokens before every place where an earlier prompt ended, as received and as sent; the whole at last."""
        received, sent = self.head
        found: list[tuple[int, int]] = []
        for part in self.parts:
            if part.starts_reply:
                found.append((received, sent))
            received, sent = received + part.received, sent + part.sent
        return [*found, (received, sent)]

    def prompt(self, *, exact: bool = True, marked: bool | None = None, rewritten: bool = False) -> Prompt:
        received, sent = self.ends[-1]
        return Prompt(received, sent, exact, lambda: iter(self.parts[::-1]), marked, rewritten)


@st.composite
def talks(draw: st.DrawFn) -> Talk:
    """Turns: the model speaks and calls, tools answer at length, some of it shortened; something may be woven in."""
    tool = draw(st.integers(0, 100))
    head = draw(SIZES)
    task = draw(st.integers(1, 2_000))
    parts = [PromptPart(task, task, starts_reply=False)]
    for _ in range(draw(st.integers(0, 6))):
        said = draw(st.integers(1, 400))
        parts.append(PromptPart(said, said, starts_reply=True))
        for _ in range(draw(st.integers(1, 3))):
            brought = draw(st.integers(1, 6_000))
            left = draw(st.integers(1, brought)) if draw(st.booleans()) else brought
            parts.append(PromptPart(brought, left, starts_reply=False))
    return Talk((head, head + tool), parts)


def floored(tokens: int) -> int:
    return tokens // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS if tokens >= MIN_CACHED_TOKENS else 0


@given(talks())
def test_openai_s_cache_is_told_to_the_token_where_it_is_warm(talk: Talk) -> None:
    *earlier, (received, sent) = talk.ends
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    usage = Usage(sent, 7, None, floored(before_sent))
    found = estimate_baseline(usage, talk.prompt(), has_cache_rate=True)
    assert found == Usage(received, 7, None, floored(before_received))


@given(talks())
def test_openai_s_cache_is_told_to_the_token_where_it_is_cold(talk: Talk) -> None:
    *earlier, (received, sent) = talk.ends
    found = estimate_baseline(Usage(sent, 7, None, 0), talk.prompt(), has_cache_rate=True)
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    # Below the least that is cached nobody can tell: it counts as if it had been.
    assert found == Usage(received, 7, None, floored(before_received) if before_sent < MIN_CACHED_TOKENS else 0)


@given(talks(), st.sampled_from([1024, 4096]))
def test_anthropic_s_cache_is_told_to_the_token_where_it_is_warm(talk: Talk, least: int) -> None:
    *earlier, (received, sent) = talk.ends
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    read = before_sent if before_sent >= least else 0
    write = sent - read if sent >= least else 0
    found = estimate_baseline(
        Usage(sent, 7, None, read, write), talk.prompt(marked=True), has_cache_rate=True, min_cached_tokens=least
    )
    would_read = before_received if before_received >= least else 0
    assert (found.input, found.cache_read) == (received, would_read)
    # A whole prompt below the least writes nothing, and what it would have written otherwise is left out.
    assert found.cache_write == (received - would_read if sent >= least else 0)


@given(talks())
def test_without_marks_nothing_is_cached_at_anthropic_s(talk: Talk) -> None:
    *_, (received, sent) = talk.ends
    found = estimate_baseline(Usage(sent, 7, None, 0, 0), talk.prompt(marked=False), has_cache_rate=True)
    assert found == Usage(received, 7, None, 0, 0)


@given(talks())
def test_what_we_have_rewritten_counts_as_cached_otherwise(talk: Talk) -> None:
    *earlier, (received, sent) = talk.ends
    found = estimate_baseline(Usage(sent, 7, None, 0), talk.prompt(rewritten=True), has_cache_rate=True)
    assert found == Usage(received, 7, None, floored(earlier[-1][0]) if earlier else 0)


@given(talks(), st.floats(0.8, 1.4))
def test_tokens_counted_by_a_stand_in_are_scaled(talk: Talk, factor: float) -> None:
    *earlier, (received, sent) = talk.ends
    billed = round(factor * sent)
    before_received, before_sent = earlier[-1] if earlier else (0, 0)
    usage = Usage(
        billed, 7, None, read := round(factor * before_sent) if before_sent >= MIN_CACHED_TOKENS else 0, billed - read
    )
    found = estimate_baseline(usage, talk.prompt(exact=False, marked=True), has_cache_rate=True)
    assert found.input == pytest.approx(factor * received, rel=0.01, abs=2)
    if read and factor * before_received > MIN_CACHED_TOKENS + 16:
        assert found.cache_read == pytest.approx(factor * before_received, rel=0.01, abs=2)


@given(talks(), st.integers(0, 100_000))
def test_images_in_the_bill_change_nothing_of_the_difference(talk: Talk, image: int) -> None:
    *_, (received, sent) = talk.ends
    found = estimate_baseline(Usage(sent + image, 7, None, 0), talk.prompt(), has_cache_rate=True)
    assert found.input == received + image


@given(talks(), usages(), st.booleans(), st.sampled_from([None, True, False]), st.booleans(), st.booleans())
def test_whatever_is_billed_makes_sense(
    talk: Talk, usage: Usage, exact: bool, marked: bool | None, rewritten: bool, caches: bool
) -> None:
    found = estimate_baseline(
        usage, talk.prompt(exact=exact, marked=marked, rewritten=rewritten), has_cache_rate=caches
    )
    assert found.input is not None
    assert (found.output, found.reasoning) == (usage.output, usage.reasoning)
    assert min(found.input, found.cache_read or 0, found.cache_write or 0) >= 0
    assert (found.cache_read or 0) + (found.cache_write or 0) <= found.input
    assert (found.cache_write_hour or 0) <= (found.cache_write or 0)


@given(talks(), st.integers(0, 200))
def test_what_was_not_changed_is_billed_as_it_was(talk: Talk, cached: int) -> None:
    same = Talk((talk.head[0], talk.head[0]), [part._replace(sent=part.received) for part in talk.parts])
    *_, (_, sent) = same.ends
    usage = Usage(sent, 7, None, min(cached * CACHE_STEP_TOKENS, sent // CACHE_STEP_TOKENS * CACHE_STEP_TOKENS))
    if (usage.cache_read or 0) >= MIN_CACHED_TOKENS:
        assert estimate_baseline(usage, same.prompt(), has_cache_rate=True) == usage


@given(talks(), COUNT)
def test_where_no_cache_is_told_what_was_saved_counts_as_cached(talk: Talk, billed: int) -> None:
    *_, (received, sent) = talk.ends
    found = estimate_baseline(Usage(billed, 7), talk.prompt(), has_cache_rate=True)
    saved = received - sent
    assert found == Usage(max(0, billed + saved), 7, None, saved if saved > 0 else None)
    assert estimate_baseline(Usage(billed, 7), talk.prompt(), has_cache_rate=False) == Usage(max(0, billed + saved), 7)


def test_nothing_follows_from_no_bill() -> None:
    assert estimate_baseline(Usage(), Talk((0, 0), []).prompt(), has_cache_rate=True) == Usage()


def test_only_as_much_is_counted_as_is_asked_for() -> None:
    seen: list[int] = []

    def parts() -> Iterator[PromptPart]:
        for at in range(1_000):
            seen.append(at)
            yield PromptPart(100, 50, starts_reply=at % 2 == 0)

    estimate_baseline(
        Usage(50_000, 7, None, 49_664), Prompt(100_000, 50_000, is_exact=True, iter_parts=parts), has_cache_rate=True
    )
    assert len(seen) < 20
