"""Bounds the values of tags in the ledger: a client chooses them, and each one gets totals of its own."""

from .ledger_dialect import SECONDS_PER_DAY
from .ledger_row import Row, encode_labels, parse_json
from .usage import as_mapping

MAX_NAMES, MAX_VALUES = 100, 1000  # a day and process
OTHER = "other"


class TagLimit:
    """Replaces each further value of a tag on a day (UTC), and each further tag, by `OTHER`."""

    def __init__(self) -> None:
        self._day = -1
        self._values: dict[str, set[str]] = {}

    def apply(self, row: Row) -> Row:
        """Return the row with its tags within the limits."""
        if row.tags == "{}":
            return row
        day = int(row.at // SECONDS_PER_DAY)
        if day > self._day:
            self._day, self._values = day, {}
        tags = {str(name): str(value) for name, value in as_mapping(parse_json(row.tags)).items()}
        limited = dict(self._limit(name, value) for name, value in tags.items())
        return row if limited == tags else row._replace(tags=encode_labels(limited))

    def _limit(self, name: str, value: str) -> tuple[str, str]:
        if name not in self._values:
            if len(self._values) >= MAX_NAMES:
                return OTHER, OTHER
            self._values[name] = set()
        values = self._values[name]
        if value not in values:
            if len(values) >= MAX_VALUES:
                return name, OTHER
            values.add(value)
        return name, value
