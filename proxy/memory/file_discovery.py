"""Finds the files to ingest; in folders it skips hidden files, links and files excluded by `.gitignore`."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pathspec import GitIgnoreSpec


class FoundFile(NamedTuple):
    """A file: its absolute path, and its name relative to the ingested folder."""

    path: Path
    name: str

    @property
    def key(self) -> str:
        """Return the path as valid Unicode."""
        return decode_path(self.path)


def decode_path(path: Path | str) -> str:
    """Return a path as valid Unicode: the file system may hold other bytes."""
    return os.fsencode(path).decode("utf-8", "replace")


class _IgnoreFile(NamedTuple):
    """The patterns of the `.gitignore` of a folder."""

    folder: Path
    patterns: GitIgnoreSpec


def find_files(sources: Sequence[Path], unreadable: dict[Path, str] | None = None) -> list[FoundFile]:
    """Return the files of files and folders, each once, in the order of their paths.

    A source file is always returned. Unreadable folders inside are skipped, and added to `unreadable` with their
    reason.

    Raises:
        OSError: a source does not exist or cannot be read.
    """
    files: dict[Path, FoundFile] = {}
    unreadable = {} if unreadable is None else unreadable
    for source in sources:
        path = source.resolve(strict=True)
        found = (
            _walk(path, path, _read_outer_patterns(path), unreadable)
            if path.is_dir()
            else [FoundFile(path, decode_path(path.name))]
        )
        for file in found:
            files.setdefault(file.path, file)
    return list(files.values())


def _walk(folder: Path, root: Path, outer: list[_IgnoreFile], unreadable: dict[Path, str]) -> Iterator[FoundFile]:
    patterns = [*outer, *_read_patterns(folder)]
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.is_symlink():
            continue
        is_folder = path.is_dir()
        if _is_ignored(path, patterns, is_folder=is_folder):
            continue
        if is_folder:
            try:
                yield from _walk(path, root, patterns, unreadable)
            except OSError as error:
                unreadable[path] = error.strerror or type(error).__name__
        elif path.is_file():
            yield FoundFile(path, decode_path(path.relative_to(root).as_posix()))


def _read_patterns(folder: Path) -> list[_IgnoreFile]:
    try:
        lines = (folder / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [_IgnoreFile(folder, GitIgnoreSpec.from_lines(lines))]


def _read_outer_patterns(folder: Path) -> list[_IgnoreFile]:
    """Return the patterns of the folders above, up to the root of their Git repository; outermost first."""
    above: list[Path] = []
    current = folder
    while not (current / ".git").exists():
        if current.parent == current:
            return []  # not in a repository
        current = current.parent
        above.append(current)
    return [entry for parent in reversed(above) for entry in _read_patterns(parent)]


def _is_ignored(path: Path, ignore_files: Sequence[_IgnoreFile], *, is_folder: bool) -> bool:
    """Return the decision of the innermost `.gitignore` with a matching pattern."""
    for entry in reversed(ignore_files):
        name = path.relative_to(entry.folder).as_posix() + ("/" if is_folder else "")
        decision = entry.patterns.check_file(name).include
        if decision is not None:
            return decision
    return False
