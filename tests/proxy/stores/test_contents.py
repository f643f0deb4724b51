"""Texts that are kept to be looked at: with their request, as long as the originals, and never in anybody's way."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clara_proxy.proxy.stores import contents
from clara_proxy.proxy.stores.contents import ContentStore, PassageTexts
from clara_proxy.proxy.stores.originals import DEFAULT_CAPACITY, Originals, OriginalsError

DAY = 86_400.0
OWNER = "0123456789abcdef0123456789abcdef"
TEXT = st.text(st.characters(codec=None), max_size=60)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    folder: Path, clock: Clock, room: int = DEFAULT_CAPACITY
) -> AsyncGenerator[tuple[ContentStore, Originals]]:
    originals = Originals(folder / "originals.sqlite3", DAY, clock, capacity=room)
    await originals.start()
    kept = ContentStore(originals)
    try:
        yield kept, originals
    finally:
        await kept.stop()
        await originals.stop()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 400), st.builds(PassageTexts, TEXT, TEXT, TEXT), max_size=5))
async def test_what_was_kept_is_there_to_the_last_character(tmp_path: Path, texts: dict[int, PassageTexts]) -> None:
    async with opened(tmp_path, Clock()) as (kept, _):
        request = f"req_{abs(hash(tuple(texts.items())))}"
        kept.keep_texts(request, OWNER, texts)
        await kept.stop()
        assert await kept.list_positions(request) == texts.keys()
        assert {at: await kept.read_texts(request, at) for at in texts} == texts
        assert await kept.read_texts(request, 401) is None
        assert await kept.read_texts("req_other", 0) is None


async def test_a_text_that_many_requests_carry_is_kept_once(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as (kept, originals):
        for number in range(5):
            kept.keep_texts(f"req_{number}", OWNER, {0: PassageTexts("the long text " * 50, "the text")})
        await kept.stop()
        assert len(await originals.list_entries(OWNER)) == 2


async def test_what_a_passage_was_wanted_for_is_kept_beside_it(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as (kept, originals):
        texts = {
            0: PassageTexts("before", "after", "what for?"),
            1: PassageTexts("x", "y"),
            2: PassageTexts("more", "less", "what for?"),
        }
        kept.keep_texts("req_1", OWNER, texts)
        await kept.stop()
        assert {at: await kept.read_texts("req_1", at) for at in texts} == texts
        assert len(await originals.list_entries(OWNER)) == 7  # the same question is kept once


async def test_it_expires_and_looking_at_it_does_not_keep_it(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as (kept, originals):
        kept.keep_texts("req_1", OWNER, {3: PassageTexts("before", "after")})
        await kept.stop()
        clock.now += DAY
        assert await kept.read_texts("req_1", 3) == PassageTexts("before", "after")
        clock.now += DAY
        assert await kept.read_texts("req_1", 3) is None
        await originals.delete_expired()
        assert not await originals.list_entries(OWNER)


async def test_who_erases_an_owners_originals_erases_what_was_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock()) as (kept, originals):
        kept.keep_texts("req_1", OWNER, {0: PassageTexts("before", "after")})
        kept.keep_texts("req_2", "another", {0: PassageTexts("before", "after")})
        await kept.stop()
        await originals.delete_all(OWNER)
        assert await kept.read_texts("req_1", 0) is None
        assert await kept.read_texts("req_2", 0) == PassageTexts("before", "after")


async def test_what_is_too_long_or_too_much_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_PASSAGE_CHARS", 100)
    monkeypatch.setattr(contents, "MAX_PENDING_CHARS", 150)
    async with opened(tmp_path, Clock()) as (kept, _):
        kept.keep_texts("req_1", OWNER, {0: PassageTexts("x" * 101, "x"), 1: PassageTexts("y" * 80, "y")})
        kept.keep_texts("req_2", OWNER, {0: PassageTexts("z" * 80, "z")})  # the first is not stored yet
        await kept.stop()
        assert await kept.list_positions("req_1") == {1}
        assert await kept.list_positions("req_2") == frozenset()
        assert kept.dropped_requests == 1
        kept.keep_texts("req_3", OWNER, {0: PassageTexts("z" * 80, "z")})
        await kept.stop()
        assert await kept.list_positions("req_3") == {0}


async def test_a_store_that_is_full_or_away_costs_nothing_but_the_look(tmp_path: Path) -> None:
    async with opened(tmp_path, Clock(), room=1) as (kept, _):
        kept.keep_texts("req_1", OWNER, {0: PassageTexts("before", "after")})
        await kept.stop()
        assert kept.dropped_requests == 1
        assert await kept.read_texts("req_1", 0) is None

    class Away(Originals):
        async def put(self, owner: str, texts: object) -> list[str]:
            raise OriginalsError("away")

    away = ContentStore(Away(tmp_path / "never-opened", DAY))
    away.keep_texts("req_1", OWNER, {0: PassageTexts("before", "after")})
    await away.stop()
    assert away.dropped_requests == 1
