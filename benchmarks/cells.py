"""Keeps the figures of a long benchmark: a figure is printed and stored as soon as it is measured.

A run that was stopped is resumed: cells that are stored are not measured again. A file belongs to one set of versions.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Cell = dict[str, Any]


class CellFile:
    """The cells of one run in a file of JSON lines; the first line holds the versions and the date."""

    def __init__(self, path: Path, versions: Mapping[str, str], *, resume: bool) -> None:
        """Open the file. Without `resume`, or with other versions than those in it, it is written anew."""
        self._path = path
        self.header: Cell = {"versions": dict(versions), "date": datetime.now(UTC).date().isoformat()}
        lines = path.read_text().splitlines() if resume and path.exists() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]  # the last line may be incomplete
        if rows and rows[0].get("versions") == self.header["versions"]:
            self.header, self._cells = rows[0], rows[1:]
        else:
            self._cells = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in (self.header, *self._cells)))

    def find(self, key: Mapping[str, object]) -> Cell | None:
        """Return the stored cell with these values, or None."""
        return next((cell for cell in self._cells if key.items() <= cell.items()), None)

    def add(self, cell: Cell) -> None:
        """Store a cell that was just measured."""
        self._cells.append(cell)
        with self._path.open("a") as file:
            file.write(json.dumps(cell) + "\n")
