"""Tests latents that processes share in Redis: a document is encoded once, and a failing Redis costs time only."""

from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

from redis import Redis as Client

from clara_proxy.compression.clara.async_engine import LocalClara, LocalModelConfig
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime import local_model
from clara_proxy.proxy.stores.latents_redis import KEY_PREFIX, RedisLatents
from clara_proxy.tests.compression.clara.tiny import make_checkpoint
from clara_proxy.tests.servers import Redis

SECONDS = 60.0
TEXTS = ["the fox", "a bridge of stone over the river " * 6]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


async def embed_with_new_proxy(checkpoint: Path, url: str, **options: Any) -> tuple[list[list[float]], dict[str, int]]:
    """Return vectors of the texts, and the counts of a proxy that has just started."""
    folders = (str(checkpoint / "clara"), None, str(checkpoint / "base"))
    config = LocalModelConfig(*folders, "cpu", None, None, shared_latents=RedisLatents(url), **options)
    clara = LocalClara(config, WorkerLimits())
    vectors = await clara.embed(TEXTS, SECONDS)
    await clara.aclose()
    return vectors, dict(clara.totals)


@pytest.mark.parametrize("precision", ["exact", "int8"])
async def test_document_is_encoded_once_for_all_proxies(checkpoint: Path, redis: Redis, precision: str) -> None:
    url = redis.reset_database()
    first, counts = await embed_with_new_proxy(checkpoint, url, latents_precision=precision)
    windows = counts["latents_missing"]
    assert (windows > 2, counts.get("latents_shared", 0)) == (True, 0)
    second, counts = await embed_with_new_proxy(checkpoint, url, latents_precision=precision)
    assert second == first
    assert (counts["latents_found"], counts["latents_shared"], counts["latents_missing"]) == (windows, windows, 0)


async def test_other_formats_and_broken_values_are_not_used(checkpoint: Path, redis: Redis) -> None:
    url = redis.reset_database()
    first, _ = await embed_with_new_proxy(checkpoint, url)
    _, counts = await embed_with_new_proxy(checkpoint, url, dtype="bf16")
    assert counts["latents_shared"] == 0
    client: Any = cast("Any", Client).from_url(url)
    keys = client.keys(f"{KEY_PREFIX}*")
    assert all(0 < client.ttl(key) <= 30 * 86_400 for key in keys)
    for key in keys:
        client.set(key, b"not a tensor")
    client.close()
    again, counts = await embed_with_new_proxy(checkpoint, url)
    assert (again, counts["latents_shared"]) == (first, 0)


async def test_documents_are_encoded_without_redis(checkpoint: Path, redis: Redis) -> None:
    expected, _ = await embed_with_new_proxy(checkpoint, redis.reset_database())
    vectors, counts = await embed_with_new_proxy(checkpoint, "unix:///none/redis.sock")
    assert (vectors, counts["latents_found"]) == (expected, 0)


def test_originals_and_latents_need_two_databases(checkpoint: Path) -> None:
    url = "redis://127.0.0.1:6379"
    settings = Settings(
        model=str(checkpoint / "clara"), base=str(checkpoint / "base"), latents_url=url, originals_url=url
    )
    assert "CLARA_ORIGINALS_URL" in local_model.describe_unavailable_model(settings)
