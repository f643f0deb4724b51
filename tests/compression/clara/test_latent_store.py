"""The store returns the same latents, bounded, across restarts, with broken files in its folder."""

import os
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch
from torch import Tensor

from clara_proxy.compression.clara.latent_store import LatentStore

VECTOR_BYTES = 8 * 4 * 4


def latent(value: float) -> Tensor:
    return torch.full((8, 4), value, dtype=torch.float32)


def key(name: str) -> str:
    return LatentStore.make_key(name, "model")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


def test_latents_survive_a_restart_in_every_dtype(tmp_path: Path) -> None:
    stored = {key("a"): latent(1.5), key("b"): latent(2.5).to(torch.bfloat16)}
    LatentStore(tmp_path).put_many(stored)
    read = LatentStore(tmp_path).get_many([*stored, key("c")])
    assert read.keys() == stored.keys()
    assert all(torch.equal(read[name], stored[name]) and read[name].dtype == stored[name].dtype for name in stored)


def test_keys_differ_between_texts_and_models() -> None:
    assert len({LatentStore.make_key(text, model) for text in ("", "a", "\ud800") for model in ("", "a")}) == 6
    assert LatentStore.make_key("a", "m") == LatentStore.make_key("a", "m")


def test_disk_is_bounded_and_evicts_the_least_recently_used(tmp_path: Path) -> None:
    LatentStore(tmp_path / "probe").put_many({key("a"): latent(0)})
    size = disk_bytes(tmp_path / "probe")
    store = LatentStore(tmp_path / "store", memory_bytes=0, disk_bytes=3 * size)
    for name in "abc":
        store.put_many({key(name): latent(1)})
    assert store.get_many([key("a")])  # used again, so "b" is the oldest
    store.put_many({key("d"): latent(1)})
    assert set(store.get_many(map(key, "abcd"))) == {key("a"), key("c"), key("d")}
    assert len(files(tmp_path / "store")) == 3
    assert disk_bytes(tmp_path / "store") == 3 * size
    for path in files(tmp_path / "store"):
        path.unlink()
    assert store.get_many(map(key, "abcd")) == {}  # none was in memory


def test_latent_larger_than_the_disk_limit_is_not_stored(tmp_path: Path) -> None:
    LatentStore(tmp_path / "probe").put_many({key("a"): latent(0)})
    store = LatentStore(tmp_path / "store", memory_bytes=0, disk_bytes=disk_bytes(tmp_path / "probe"))
    store.put_many({key("a"): latent(1)})
    store.put_many({key("b"): torch.zeros(64, 64)})
    assert set(store.get_many(map(key, "ab"))) == {key("a")}
    assert len(files(tmp_path / "store")) == 1


def test_order_of_use_survives_a_restart(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    store.put_many({key(name): latent(1) for name in "ab"})
    size = disk_bytes(tmp_path) // 2
    paths = {path.name: path for path in files(tmp_path)}
    os.utime(paths[f"{key('a')}.safetensors"], (2e9, 2e9))
    os.utime(paths[f"{key('b')}.safetensors"], (1e9, 1e9))
    again = LatentStore(tmp_path, disk_bytes=size)
    assert set(again.get_many(map(key, "ab"))) == {key("a")}


def test_reading_counts_as_use_across_a_restart(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    store.put_many({key(name): latent(1) for name in "ab"})
    for age, name in enumerate("ab"):
        (path,) = tmp_path.glob(f"*/{key(name)}.safetensors")
        os.utime(path, (1e9 + age, 1e9 + age))
    assert LatentStore(tmp_path).get_many([key("a")])
    again = LatentStore(tmp_path, disk_bytes=disk_bytes(tmp_path) // 2)
    assert set(again.get_many(map(key, "ab"))) == {key("a")}


def test_memory_is_bounded() -> None:
    store = LatentStore(None, memory_bytes=2 * VECTOR_BYTES)
    store.put_many({key(name): latent(1.0) for name in "abc"})
    assert set(store.get_many(map(key, "abc"))) == {key("b"), key("c")}


def test_broken_file_counts_as_missing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LatentStore(tmp_path).put_many({key("a"): latent(1)})
    (path,) = files(tmp_path)
    path.write_bytes(b"not tensors")
    store = LatentStore(tmp_path)
    assert store.get_many([key("a")]) == {}
    assert "dropped" in caplog.text
    assert files(tmp_path) == []
    store.put_many({key("a"): latent(2)})
    assert torch.equal(LatentStore(tmp_path).get_many([key("a")])[key("a")], latent(2))


def test_stored_latent_is_a_copy(tmp_path: Path) -> None:
    store, vector = LatentStore(tmp_path), latent(1)
    store.put_many({key("a"): vector})
    vector.zero_()
    assert torch.equal(store.get_many([key("a")])[key("a")], latent(1))


def test_leftover_drafts_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "x.safetensors.1234.tmp").write_bytes(b"")
    LatentStore(tmp_path)
    assert files(tmp_path) == []


def test_unwritable_disk_keeps_latents_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LatentStore(tmp_path)
    (tmp_path / key("a")[:2]).write_text("a file where a folder should be")
    store.put_many({key("a"): latent(1)})
    assert "cannot be stored" in caplog.text
    assert key("a") in store.get_many([key("a")])
