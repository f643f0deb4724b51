"""Start-up: everything that a first request needs is loaded before the proxy is ready."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, cast

import pytest

from clara_proxy.compression import registry, tokens
from clara_proxy.compression.clara.locate import BUNDLED_MODELS, NANO_NAME
from clara_proxy.config import extras, prices
from clara_proxy.config.server_settings import LitellmModel
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.runtime import local_model, preload, services
from clara_proxy.proxy.stores.errors import StartupError
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import tool_chat


class CachedFunction(Protocol):
    """A function with a cache."""

    def cache_clear(self) -> None: ...
    def cache_info(self) -> Any: ...


def get_cached(module: object, *names: str) -> list[CachedFunction]:
    return [cast("CachedFunction", getattr(module, name)) for name in names]


LOADERS = [
    *get_cached(tokens, "_load_encoding"),
    *get_cached(registry, "list_compressors"),
    *get_cached(prices, "_load_table"),
]
COUNTERS = get_cached(tokens, "_get_shared_counter", "get_token_counter")


@pytest.fixture(autouse=True)
def _nothing_loaded() -> None:  # pyright: ignore[reportUnusedFunction]
    for function in [*LOADERS, *COUNTERS, *get_cached(prices, "find_price")]:
        function.cache_clear()


def count_loads() -> list[int]:
    return [function.cache_info().misses for function in LOADERS]


def count_vocabularies() -> int:
    return int(LOADERS[0].cache_info().currsize)


def test_first_request_after_start_loads_nothing(tmp_path: Path, upstream: FaultyUpstream) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        assert count_loads() == [1, 1, 1]
        assert tokens.get_token_counter("gpt-4o").is_loaded
        answer = proxy.post(tool_chat())
        assert int(answer.headers["x-clara-tokens-saved"]) > 5000
        assert count_loads() == [1, 1, 1]


def test_vocabularies_of_configured_models_are_loaded_at_start(tmp_path: Path, upstream: FaultyUpstream) -> None:
    model = LitellmModel(name="old", litellm="openai/gpt-4", api_key="k")
    with running.run_proxy(upstream.url, tmp_path, models=(model,)):
        assert count_vocabularies() == 2
        assert tokens.get_token_counter("gpt-4").is_loaded


def test_vocabularies_of_recent_requests_are_loaded_at_start(tmp_path: Path, upstream: FaultyUpstream) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        assert count_vocabularies() == 1
        proxy.wait_for_row(proxy.post(tool_chat(model="gpt-4")))
    for function in [*LOADERS, *COUNTERS]:
        function.cache_clear()
    with running.run_proxy(upstream.url, tmp_path):
        assert count_vocabularies() == 2
        assert tokens.get_token_counter("gpt-4").is_loaded


def test_two_starts_in_one_process_load_once() -> None:
    threads = [Thread(target=preload.preload) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count_loads() == [1, 1, 1]


def test_failed_load_is_logged_and_requests_are_forwarded_unchanged(
    tmp_path: Path, upstream: FaultyUpstream, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> tuple[Any, ...]:
        raise ImportError("no module named secret")

    monkeypatch.setattr(registry, "list_compressors", fail)
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        answer = proxy.post(tool_chat())
    assert answer.status_code == 200
    assert "failed=1" in answer.headers["x-clara-skipped"]
    log = capsys.readouterr().err
    assert log.count("cannot load the compressors and vocabularies: ImportError") == 1
    assert "secret" not in log


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backend": "cuda"}, "CLARA_BACKEND"),
        ({"subfolder": "compression-128"}, "compression-128.*CLARA_SUBFOLDER"),
        ({"model": "/nonexistent"}, "/nonexistent.*CLARA_MODEL"),
        ({"base": "/nonexistent"}, "/nonexistent.*CLARA_BASE"),
    ],
)
async def test_model_that_cannot_be_loaded_is_refused_at_start(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    chosen: dict[str, Any] = {"model": "clara-nano", **settings}
    custom = Settings(data_dir=tmp_path, **chosen)
    with pytest.raises(StartupError, match=words):
        async with services.open_services(custom):
            pass
    assert local_model.describe_problem(Settings(data_dir=tmp_path, model="clara-nano")) == ""


@pytest.mark.parametrize(("backend", "extra"), [("cpu", "clara"), ("mlx", "mlx")])
def test_backend_without_its_library_names_the_extra(
    backend: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, backend=backend, model="clara-nano")
    assert local_model.describe_problem(settings) == ""
    find_nothing: Callable[[str], None] = lambda name: None  # noqa: E731
    monkeypatch.setattr(local_model, "find_spec", find_nothing)
    assert extras.describe_install(extra) in local_model.describe_problem(settings)
    assert local_model.resolve_local_model(Settings(data_dir=tmp_path, backend=backend)) is None


def test_missing_shard_is_found_at_start(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    base = tmp_path / "base"
    shutil.copytree(BUNDLED_MODELS[NANO_NAME] / "base", base)
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    problem = local_model.describe_unavailable_model(Settings(model="clara-nano", base=str(base)))
    assert "model-00001-of-00002.safetensors: no such file" in problem


async def test_no_task_is_left_when_a_store_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").mkdir()
    with pytest.raises(StartupError, match="CLARA_DATA_DIR"):
        async with services.open_services(Settings(data_dir=tmp_path, model="none")):
            pass
    assert len(asyncio.all_tasks()) == 1
