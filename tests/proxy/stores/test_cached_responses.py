"""The contract of the stores of the response cache: SQLite, PostgreSQL and Redis."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from clara_proxy.proxy.stores.cached_responses import CachedResponse, ResponseStorage
from clara_proxy.proxy.stores.originals_store import OriginalsError
from clara_proxy.proxy.stores.shared_responses import create_response_store
from clara_proxy.tests.servers import Postgres, Redis

CAPACITY = 400_000
KEY = base64.b64encode(b"k" * 32).decode()


class Clock:
    """A clock that tests move."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres, redis: Redis) -> str:
    """The URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.sqlite3'}"
    return postgres.reset_database() if request.param == "postgres" else redis.reset_database()


@pytest.fixture
async def store(url: str, tmp_path: Path, clock: Clock) -> AsyncIterator[ResponseStorage]:
    store = create_response_store(url, tmp_path / "unused", CAPACITY, clock=clock)
    await store.start()
    yield store
    await store.stop()


def build_response(
    name: str, question: str = "", body: bytes = b"answer", expires: float = 1_003_600.0
) -> CachedResponse:
    return CachedResponse("me", name, "bucket" if question else "", question, expires, body)


async def test_an_answer_is_its_owners_until_it_expires(store: ResponseStorage, clock: Clock) -> None:
    await store.insert(build_response("a"))
    assert await store.read("me", "a", 3600) == b"answer"
    assert await store.read("you", "a", 3600) is None
    assert await store.read("me", "b", 3600) is None
    clock.now += 10
    assert await store.read("me", "a", 5) is None
    await store.insert(build_response("a", body=b"newer"))
    assert await store.read("me", "a", 5) == b"newer"
    clock.now += 3600
    assert await store.read("me", "a", 36_000) is None
    await store.delete_expired()


async def test_questions_of_a_bucket_are_listed_newest_first(store: ResponseStorage, clock: Clock) -> None:
    for number in range(4):
        clock.now += 1
        await store.insert(build_response(f"n{number}", f"question {number}"))
    await store.insert(build_response("other"))
    assert await store.list_questions("me", "bucket", 3600, 2) == {"n3": "question 3", "n2": "question 2"}
    assert list(await store.list_questions("me", "bucket", 1.5, 9)) == ["n3", "n2"]
    assert await store.list_questions("you", "bucket", 3600, 9) == {}
    assert await store.list_questions("me", "", 3600, 9) == {}
    clock.now += 3600
    assert await store.list_questions("me", "bucket", 36_000, 9) == {}


async def test_replicas_share_answers_and_encrypt_them(url: str, tmp_path: Path, clock: Clock) -> None:
    first, second, stranger = (
        create_response_store(url, tmp_path / "unused", CAPACITY, keys, clock) for keys in ([KEY], [KEY], [])
    )
    for store in (first, second, stranger):
        await store.start()
    await first.insert(build_response("a", "question"))
    assert await second.read("me", "a", 3600) == b"answer"
    assert await second.list_questions("me", "bucket", 3600, 9) == {"a": "question"}
    with pytest.raises(OriginalsError):
        await stranger.read("me", "a", 3600)
    for store in (first, second, stranger):
        await store.stop()


@pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)
async def test_a_full_store_deletes_the_oldest_answers(store: ResponseStorage, clock: Clock) -> None:
    bodies = [b"".join(part.to_bytes(4) for part in range(first, first + 5000)) for first in range(0, 200_000, 5000)]
    for number, body in enumerate(bodies):
        clock.now += 1
        await store.insert(build_response(str(number), body=body))
    assert await store.read("me", "0", 3600) is None
    assert await store.read("me", "39", 3600) == bodies[-1]
    await store.insert(build_response("large", body=bytes(range(256)) * 10_000))


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1"], indirect=False)
async def test_a_store_that_cannot_be_reached_is_an_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(OriginalsError):
        await create_response_store(url, tmp_path / "unused", CAPACITY).start()
