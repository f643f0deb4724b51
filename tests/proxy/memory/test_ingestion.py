"""Ingestion of folders: which files are read, what happens to changed, equal, broken and deleted ones."""

import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from clara_proxy.proxy.memory import file_discovery
from clara_proxy.proxy.memory.ingestion import Ingestion, IngestSummary, open_or_create_store
from clara_proxy.proxy.stores.memory_store import MemoryStore, open_memory

OWNER = "alice"


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[MemoryStore]:
    async with open_memory(f"sqlite:///{tmp_path / 'memory.sqlite3'}") as store:
        yield store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def write_files(folder: Path, **texts: str) -> None:
    """Write files whose names end in `.md`."""
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


async def ingest(memory: MemoryStore, *sources: Path, prunes: bool = False) -> IngestSummary:
    store = await open_or_create_store(memory, OWNER, "docs")
    calls: list[tuple[int, int]] = []
    summary = await Ingestion(memory, OWNER, store).run(
        sources, prunes=prunes, on_progress=lambda done, total, _: calls.append((done, total))
    )
    assert calls == [(done, summary.files) for done in range(summary.files + 1)]
    return summary


async def read_store(memory: MemoryStore) -> dict[str, str]:
    """Return the indexed texts of the store by name; the owner has no other files."""
    entries = await memory.list_store_files(OWNER, "docs")
    assert {entry.file_id for entry in entries} == {file.id for file in await memory.list_files(OWNER)}
    return {entry.name: await memory.read_text(OWNER, entry.file_id) or "" for entry in entries}


def test_hidden_ignored_and_linked_files_are_not_found(folder: Path, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("secret*\n")
    (folder / ".gitignore").write_text("*.log\n/build/\n!keep.log\n")
    for name in ("a.md", "x.log", "keep.log", ".env", "secret.md", "build/out.md", "sub/build/in.md", "sub/y.log"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "sub" / ".gitignore").write_text("!y.log\n")
    (folder / "link.md").symlink_to(folder / ".env")
    (folder / "loop").symlink_to(folder)
    found = file_discovery.find_files([folder, folder / "sub", folder / "secret.md"])
    assert [file.name for file in found] == ["a.md", "keep.log", "sub/build/in.md", "sub/y.log", "secret.md"]


async def test_changed_files_are_replaced_and_deleted_ones_pruned(memory: MemoryStore, folder: Path) -> None:
    write_files(folder, first="The first text.", second="The second text.", third="The third text.")
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    summary = await ingest(memory, folder)
    assert (summary.added, summary.not_text, summary.failed) == (3, 1, {})
    write_files(folder, second="Another text.")
    (folder / "third.md").unlink()
    summary = await ingest(memory, folder)
    assert (summary.added, summary.replaced, summary.unchanged, summary.removed) == (0, 1, 1, 0)
    other = folder.parent / "other.md"
    other.write_text("Elsewhere.")
    await ingest(memory, other)
    assert (await ingest(memory, folder, prunes=True)).removed == 1
    assert await read_store(memory) == {
        "first.md": "The first text.",
        "second.md": "Another text.",
        "other.md": "Elsewhere.",
    }


async def test_equal_files_are_kept_once(memory: MemoryStore, folder: Path) -> None:
    write_files(folder, a="The same.", b="The same.")
    summary = await ingest(memory, folder)
    assert (summary.added, summary.duplicates) == (1, 1)
    write_files(folder, a="Changed.")  # the other file now is the only one with this text
    await ingest(memory, folder)
    assert await read_store(memory) == {"a.md": "Changed.", "b.md": "The same."}
    write_files(folder, a="The same.", b="Changed.")  # swapped
    await ingest(memory, folder)
    assert sorted((await read_store(memory)).values()) == ["Changed.", "The same."]
    assert (await ingest(memory, folder)).unchanged == 2


async def test_broken_files_are_named_and_keep_their_old_version(memory: MemoryStore, folder: Path) -> None:
    write_files(folder, good="A text.")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    with (folder / "huge.pdf").open("wb") as file:
        file.truncate(200 * 2**20)  # 200 MiB that take no space
    summary = await ingest(memory, folder)
    assert summary.added == 1
    assert list(summary.failed) == [str(folder / "broken.pdf"), str(folder / "huge.pdf")]
    assert "cannot be converted" in summary.failed[str(folder / "broken.pdf")]
    assert summary.failed[str(folder / "huge.pdf")] == "it has more than 100 MiB"
    (folder / "good.md").unlink()
    (folder / "good.md").mkdir()  # no file any more
    assert (await ingest(memory, folder / "good.md")).files == 0
    assert await read_store(memory) == {"good.md": "A text."}


async def test_files_of_an_unreadable_folder_are_not_pruned(
    memory: MemoryStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sub").mkdir()
    write_files(folder / "sub", kept="A text.")
    await ingest(memory, folder)
    list_folder = Path.iterdir

    def fail(path: Path) -> Iterator[Path]:  # root may read everything, so no permission can forbid it
        if path.name == "sub":
            raise PermissionError(13, "Permission denied")
        return list_folder(path)

    monkeypatch.setattr(Path, "iterdir", fail)
    summary = await ingest(memory, folder, prunes=True)
    assert (summary.removed, summary.failed) == (0, {str(folder / "sub"): "Permission denied"})
    assert list(await read_store(memory)) == ["sub/kept.md"]


async def test_names_in_other_encodings_are_stored(memory: MemoryStore, folder: Path) -> None:
    (Path(str(folder)) / "caf\udce9.txt").write_text("A text.")
    assert (await ingest(memory, folder)).added == 1
    assert (await ingest(memory, folder)).unchanged == 1
    assert list(await read_store(memory)) == ["caf\ufffd.txt"]
