"""Tests latents that processes share in Redis or PostgreSQL: both stores keep one contract, and failures are misses."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from clara_proxy.compression.clara.async_engine import LocalClara, LocalModelConfig
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime import local_model
from clara_proxy.proxy.runtime.local_model import open_latent_cache
from clara_proxy.proxy.stores.latents import LIFETIME_SECONDS, LatentCache
from clara_proxy.proxy.stores.latents_postgres import PostgresLatents
from clara_proxy.proxy.stores.latents_redis import RedisLatents
from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.servers import Postgres, Redis

SECONDS, CAPACITY = 60.0, 1 << 20
TEXTS = ["the fox", "a bridge of stone over the river " * 6]
Open = Callable[[], LatentCache]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(params=["redis", "postgres"])
def open_cache(request: pytest.FixtureRequest, redis: Redis, postgres: Postgres) -> Iterator[Open]:
    """Yield a function that opens another client of one empty store."""
    server = redis if request.param == "redis" else postgres
    url, caches = server.reset_database(), list[LatentCache]()

    def open_another() -> LatentCache:
        caches.append(open_latent_cache(url, CAPACITY))
        return caches[-1]

    yield open_another
    for cache in caches:
        cache.close()


async def embed_with_new_proxy(
    checkpoint: Path, cache: LatentCache, **options: Any
) -> tuple[list[list[float]], dict[str, int]]:
    """Return vectors of the texts, and the counts of a proxy that has just started."""
    folders = (str(checkpoint / "clara"), None, str(checkpoint / "base"))
    config = LocalModelConfig(*folders, "cpu", None, None, shared_latents=cache, **options)
    clara = LocalClara(config, WorkerLimits())
    vectors = await clara.embed(TEXTS, SECONDS)
    await clara.aclose()
    return vectors, dict(clara.totals)


def test_values_are_read_by_other_clients(open_cache: Open) -> None:
    first, second = open_cache(), open_cache()
    values = {f"key{number}": bytes([number % 256]) * number for number in range(150)}  # several batches
    first.write_many(values)
    assert second.read_many([*values, "absent"]) == values
    second.write_many({"key1": b"new"})
    assert first.read_many(["key1", "key1", "absent"]) == {"key1": b"new"}
    assert first.read_many([]) == {}


@pytest.mark.parametrize("precision", ["exact", "int8"])
async def test_document_is_encoded_once_for_all_proxies(checkpoint: Path, open_cache: Open, precision: str) -> None:
    first, counts = await embed_with_new_proxy(checkpoint, open_cache(), latents_precision=precision)
    windows = counts["latents_missing"]
    assert (windows > 2, counts.get("latents_shared", 0)) == (True, 0)
    second, counts = await embed_with_new_proxy(checkpoint, open_cache(), latents_precision=precision)
    assert second == first
    assert (counts["latents_found"], counts["latents_shared"], counts["latents_missing"]) == (windows, windows, 0)


async def test_other_formats_and_broken_values_are_not_used(checkpoint: Path, open_cache: Open) -> None:
    class Recording:
        """Records the keys that a proxy writes."""

        def __init__(self) -> None:
            self.cache, self.keys = open_cache(), list[str]()

        def read_many(self, keys: Any) -> dict[str, bytes]:
            return self.cache.read_many(keys)

        def write_many(self, values: Any) -> None:
            self.keys += values
            self.cache.write_many(values)

        def close(self) -> None:
            """The fixture closes the cache."""

    recording: Any = Recording()
    first, _ = await embed_with_new_proxy(checkpoint, recording)
    _, counts = await embed_with_new_proxy(checkpoint, open_cache(), dtype="bf16")
    assert counts["latents_shared"] == 0
    await asyncio.to_thread(open_cache().write_many, dict.fromkeys(recording.keys, b"not a tensor"))
    again, counts = await embed_with_new_proxy(checkpoint, open_cache())
    assert (again, counts["latents_shared"]) == (first, 0)


def test_values_expire_in_redis(redis: Redis) -> None:
    cache = RedisLatents(redis.reset_database())
    cache.write_many({"key": b"value"})
    expected = time.time() + LIFETIME_SECONDS
    lifetime = cache._client.ttl("clara-latent/key")  # pyright: ignore[reportPrivateUsage]
    assert 0 < lifetime <= LIFETIME_SECONDS
    assert abs(time.time() + lifetime - expected) < 60
    cache.close()


def test_values_expire_in_postgres(postgres: Postgres) -> None:
    now = [1_000.0]
    cache = PostgresLatents(postgres.reset_database(), CAPACITY, lambda: now[0])
    cache.write_many({"old": b"value"})
    now[0] += LIFETIME_SECONDS / 2
    cache.write_many({"new": b"value"})
    now[0] += LIFETIME_SECONDS / 2
    assert cache.read_many(["old", "new"]) == {"new": b"value"}
    cache.close()


def test_postgres_deletes_the_oldest_values_above_the_capacity(postgres: Postgres) -> None:
    url, now = postgres.reset_database(), [1_000.0]
    caches = [PostgresLatents(url, 10_000, lambda: now[0]) for _ in range(2)]
    for number in range(100):
        now[0] += 1
        caches[number % 2].write_many({f"key{number:02}": bytes(700)})
    kept = caches[0].read_many([f"key{number:02}" for number in range(100)])
    assert 10_000 - 700 <= 700 * len(kept) <= 10_000 + 2 * 700
    assert sorted(kept) == [f"key{number:02}" for number in range(100 - len(kept), 100)]
    for cache in caches:
        cache.close()


@pytest.mark.parametrize("url", ["unix:///none/redis.sock", "postgresql://nobody@127.0.0.1:1/none"])
async def test_documents_are_encoded_without_the_store(
    checkpoint: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, expected = await embed_with_new_proxy(checkpoint, open_latent_cache("unix:///none/x.sock", 0))
    caplog.clear()
    _, counts = await embed_with_new_proxy(checkpoint, open_latent_cache(url, CAPACITY))
    assert (counts["latents_missing"], counts["latents_found"]) == (expected["latents_missing"], 0)
    assert [record.getMessage()[:50] for record in caplog.records] == [
        "shared latents cannot be read or stored: Connectio"
    ]


def test_store_is_used_again_after_a_failure(open_cache: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, failures = open_cache(), [ConnectionResetError(), None]
    read: Any = cache._read_batch  # pyright: ignore[reportPrivateUsage]

    def fail_once(keys: Any) -> Any:
        if (error := failures.pop(0)) is not None:
            raise error
        return read(keys)

    cache.write_many({"key": b"value"})
    monkeypatch.setattr(cache, "_read_batch", fail_once)
    assert cache.read_many(["key"]) == {}
    assert cache.read_many(["key"]) == {}  # the store is left alone for a while
    later = time.monotonic() + 3_600
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert cache.read_many(["key"]) == {"key": b"value"}


def test_postgres_connects_again_after_its_connection_ends(postgres: Postgres) -> None:
    cache = PostgresLatents(postgres.reset_database(), CAPACITY)
    cache.write_many({"key": b"value"})
    connection = cache._connection  # pyright: ignore[reportPrivateUsage]
    assert connection is not None
    connection.terminate()
    assert cache.read_many(["key"]) == {"key": b"value"}
    cache.close()


def test_originals_and_latents_need_two_redis_databases(checkpoint: Path) -> None:
    def describe(url: str) -> str:
        settings = Settings(
            model=str(checkpoint / "clara"), base=str(checkpoint / "base"), latents_url=url, originals_url=url
        )
        return local_model.describe_unavailable_model(settings)

    assert "CLARA_ORIGINALS_URL" in describe("redis://127.0.0.1:6379")
    assert describe("postgresql://127.0.0.1/db") == ""
