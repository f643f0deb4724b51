"""The store: content in, the same content out, bounded, across restarts, whatever lies in the folder."""

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


def test_survives_a_restart_with_every_dtype(tmp_path: Path) -> None:
    kept = {key("a"): latent(1.5), key("b"): latent(2.5).to(torch.bfloat16)}
    LatentStore(tmp_path).put_many(kept)
    again = LatentStore(tmp_path).get_many([*kept, key("c")])
    assert again.keys() == kept.keys()
    assert all(torch.equal(again[name], kept[name]) and again[name].dtype == kept[name].dtype for name in kept)


def test_keys_tell_texts_and_models_apart() -> None:
    assert len({LatentStore.make_key(text, model) for text in ("", "a", "\ud800") for model in ("", "a")}) == 6
    assert LatentStore.make_key("a", "m") == LatentStore.make_key("a", "m")


def test_the_disk_is_bounded_and_forgets_the_least_used(tmp_path: Path) -> None:
    probe = LatentStore(tmp_path / "probe")
    probe.put_many({key("a"): latent(0)})
    size = probe.stored_bytes[1]
    store = LatentStore(tmp_path / "store", memory_bytes=0, disk_bytes=3 * size)
    for name in "abc":
        store.put_many({key(name): latent(1)})
    assert store.get_many([key("a")])  # used again, so "b" is the oldest
    store.put_many({key("d"): latent(1)})
    assert set(store.get_many(map(key, "abcd"))) == {key("a"), key("c"), key("d")}
    assert len(files(tmp_path / "store")) == 3
    assert store.stored_bytes == (0, 3 * size)


def test_a_restart_remembers_the_order_of_use(tmp_path: Path) -> None:
    store = LatentStore(tmp_path)
    store.put_many({key(name): latent(1) for name in "ab"})
    size = store.stored_bytes[1] // 2
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
    again = LatentStore(tmp_path, disk_bytes=store.stored_bytes[1] // 2)
    assert set(again.get_many(map(key, "ab"))) == {key("a")}


def test_memory_is_bounded_too() -> None:
    store = LatentStore(None, memory_bytes=2 * VECTOR_BYTES)
    store.put_many({key(name): latent(1.0) for name in "abc"})
    assert set(store.get_many(map(key, "abc"))) == {key("b"), key("c")}
    assert store.stored_bytes == (2 * VECTOR_BYTES, 0)


def test_a_broken_file_counts_as_absent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LatentStore(tmp_path).put_many({key("a"): latent(1)})
    (path,) = files(tmp_path)
    path.write_bytes(b"not tensors")
    store = LatentStore(tmp_path)
    assert store.get_many([key("a")]) == {}
    assert "dropped" in caplog.text
    assert files(tmp_path) == []
    store.put_many({key("a"): latent(2)})
    assert torch.equal(LatentStore(tmp_path).get_many([key("a")])[key("a")], latent(2))


def test_what_is_kept_is_a_copy(tmp_path: Path) -> None:
    store, vector = LatentStore(tmp_path), latent(1)
    store.put_many({key("a"): vector})
    vector.zero_()
    assert torch.equal(store.get_many([key("a")])[key("a")], latent(1))


def test_left_over_drafts_go(tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "x.safetensors.1234.tmp").write_bytes(b"")
    LatentStore(tmp_path)
    assert files(tmp_path) == []


def test_a_disk_that_cannot_be_written_costs_only_the_saving(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = LatentStore(tmp_path)
    (tmp_path / key("a")[:2]).write_text("a file where a folder should be")
    store.put_many({key("a"): latent(1)})
    assert "cannot be stored" in caplog.text
    assert key("a") in store.get_many([key("a")])
