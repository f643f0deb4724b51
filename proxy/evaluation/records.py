"""The results of an evaluation, one record for each question, method and size, in a file of JSON lines.

An unfinished evaluation is resumed from this file: stored records are not measured again.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple


class RecordKey(NamedTuple):
    """The conditions of a record: the case, the method with its model and ratio, the reader, and the version."""

    case: str
    method: str
    model: str
    ratio: float
    reader: str
    version: str


@dataclass(frozen=True, slots=True)
class Record:
    """One compressed text and the answer from it. Sizes in tokens; a ratio of 0 means that the method has none.

    `kept` is True if an answer is verbatim in the text, and None if the original has no answer. Without a reader, there
    is no `prediction`, `em` and `f1`. `reason` explains a text left unchanged, `error` a refusal of the reader.
    `compressor` names the writer of the text: a mode of CLaRa extracts if it has no answer.
    """

    data: str
    case: str
    method: str
    model: str
    ratio: float
    reader: str
    version: str
    tokens_before: int
    tokens: int
    kept: bool | None
    prediction: str | None
    em: float | None
    f1: float | None
    compress_seconds: float
    reader_seconds: float
    compressor: str
    reason: str = ""
    error: str = ""

    @property
    def key(self) -> RecordKey:
        """Return the key of the record."""
        return RecordKey(self.case, self.method, self.model, self.ratio, self.reader, self.version)


class RecordFile:
    """A file of records that grows; a line that an interruption has cut is measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.records: dict[RecordKey, Record] = {record.key: record for record in _read_records(path)}

    def add(self, record: Record) -> None:
        """Append a record to the file."""
        self.records[record.key] = record
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record), ensure_ascii=False) + "\n")


def _read_records(path: Path) -> Iterable[Record]:
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if text and not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    for line in text.splitlines():
        try:
            fields: dict[str, Any] = json.loads(line)
            yield Record(**fields)
        except (ValueError, TypeError):  # of another version
            continue
