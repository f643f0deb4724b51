"""Kept texts: found by request, expire with the originals, and never delay a request."""

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
    """A clock for tests."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def open_contents(
    folder: Path, clock: Clock, capacity: int = DEFAULT_CAPACITY
) -> AsyncGenerator[tuple[ContentStore, Originals]]:
    originals = Originals(folder / "originals.sqlite3", DAY, clock, capacity=capacity)
    await originals.start()
    contents_store = ContentStore(originals)
    try:
        yield contents_store, originals
    finally:
        await contents_store.stop()
        await originals.stop()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.integers(0, 400), st.builds(PassageTexts, TEXT, TEXT, TEXT), max_size=5))
async def test_kept_texts_are_returned_unchanged(tmp_path: Path, texts: dict[int, PassageTexts]) -> None:
    async with open_contents(tmp_path, Clock()) as (contents_store, _):
        request = f"req_{abs(hash(tuple(texts.items())))}"
        contents_store.keep_texts(request, OWNER, texts)
        await contents_store.stop()
        assert await contents_store.list_positions(request) == texts.keys()
        assert {position: await contents_store.read_texts(request, position) for position in texts} == texts
        assert await contents_store.read_texts(request, 401) is None
        assert await contents_store.read_texts("req_other", 0) is None


async def test_a_repeated_text_is_kept_once(tmp_path: Path) -> None:
    async with open_contents(tmp_path, Clock()) as (contents_store, originals):
        for number in range(5):
            contents_store.keep_texts(f"req_{number}", OWNER, {0: PassageTexts("the long text " * 50, "the text")})
        await contents_store.stop()
        assert len(await originals.list_entries(OWNER)) == 2


async def test_the_question_is_kept_with_the_passage(tmp_path: Path) -> None:
    async with open_contents(tmp_path, Clock()) as (contents_store, originals):
        texts = {
            0: PassageTexts("before", "after", "what for?"),
            1: PassageTexts("x", "y"),
            2: PassageTexts("more", "less", "what for?"),
        }
        contents_store.keep_texts("req_1", OWNER, texts)
        await contents_store.stop()
        assert {position: await contents_store.read_texts("req_1", position) for position in texts} == texts
        assert len(await originals.list_entries(OWNER)) == 7  # the same question is stored once


async def test_kept_texts_expire_even_if_they_are_read(tmp_path: Path) -> None:
    clock = Clock()
    async with open_contents(tmp_path, clock) as (contents_store, originals):
        contents_store.keep_texts("req_1", OWNER, {3: PassageTexts("before", "after")})
        await contents_store.stop()
        clock.now += DAY
        assert await contents_store.read_texts("req_1", 3) == PassageTexts("before", "after")
        clock.now += DAY
        assert await contents_store.read_texts("req_1", 3) is None
        await originals.delete_expired()
        assert not await originals.list_entries(OWNER)


async def test_deleting_originals_deletes_kept_texts(tmp_path: Path) -> None:
    async with open_contents(tmp_path, Clock()) as (contents_store, originals):
        contents_store.keep_texts("req_1", OWNER, {0: PassageTexts("before", "after")})
        contents_store.keep_texts("req_2", "another", {0: PassageTexts("before", "after")})
        await contents_store.stop()
        await originals.delete_all(OWNER)
        assert await contents_store.read_texts("req_1", 0) is None
        assert await contents_store.read_texts("req_2", 0) == PassageTexts("before", "after")


async def test_texts_beyond_the_limits_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MAX_PASSAGE_CHARS", 100)
    monkeypatch.setattr(contents, "MAX_PENDING_CHARS", 150)
    async with open_contents(tmp_path, Clock()) as (contents_store, _):
        contents_store.keep_texts("req_1", OWNER, {0: PassageTexts("x" * 101, "x"), 1: PassageTexts("y" * 80, "y")})
        contents_store.keep_texts("req_2", OWNER, {0: PassageTexts("z" * 80, "z")})  # the first is not stored yet
        await contents_store.stop()
        assert await contents_store.list_positions("req_1") == {1}
        assert await contents_store.list_positions("req_2") == frozenset()
        assert contents_store.dropped_requests == 1
        contents_store.keep_texts("req_3", OWNER, {0: PassageTexts("z" * 80, "z")})
        await contents_store.stop()
        assert await contents_store.list_positions("req_3") == {0}


async def test_a_failing_store_only_drops_texts(tmp_path: Path) -> None:
    async with open_contents(tmp_path, Clock(), capacity=1) as (contents_store, _):
        contents_store.keep_texts("req_1", OWNER, {0: PassageTexts("before", "after")})
        await contents_store.stop()
        assert contents_store.dropped_requests == 1
        assert await contents_store.read_texts("req_1", 0) is None

    class UnreachableOriginals(Originals):
        async def put(self, owner: str, texts: object, seconds: float | None = None, names: object = None) -> list[str]:
            raise OriginalsError("unreachable")

    unreachable = ContentStore(UnreachableOriginals(tmp_path / "never-opened", DAY))
    unreachable.keep_texts("req_1", OWNER, {0: PassageTexts("before", "after")})
    await unreachable.stop()
    assert unreachable.dropped_requests == 1
