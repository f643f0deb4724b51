"""Metric labels made of names that clients choose: valid UTF-8, and a bounded number of them.

A metrics store keeps every label it receives. Invariant: however many names arrive, a limiter returns at most its limit
of distinct labels, besides `OTHER_LABEL` and `NONE_LABEL`.
"""

from ..stores.ledger_row import Row

OTHER_LABEL, NONE_LABEL = "other", "none"
MAX_MODELS = 50  # distinct models


class LabelLimiter:
    """Maps the first `limit` distinct names to labels of their own, and every later name to `OTHER_LABEL`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._labels: dict[str, str] = {"": NONE_LABEL}

    def get_label(self, name: str, *, may_add: bool = True) -> str:
        """Return the label of a name; a new name is `OTHER_LABEL` unless it `may_add` a label and one is free."""
        label = self._labels.get(name)
        if label is not None:
            return label
        if not may_add or len(self._labels) > self._limit:
            return OTHER_LABEL
        return self._labels.setdefault(name, replace_surrogates(name))


class ModelLabels(LabelLimiter):
    """Labels for the models of ledger rows."""

    def __init__(self) -> None:
        super().__init__(MAX_MODELS)

    def get_row_label(self, row: Row) -> str:
        """Return the label of a row's model; for an answer of the local CLaRa the engine's name, not a folder."""
        # A model name that no provider accepted is arbitrary client input and uses up no label.
        is_accepted = row.outcome in {"ok", "served"}
        return self.get_label(row.engine if row.mode_used == "latent" else row.model, may_add=is_accepted)


def replace_surrogates(text: str) -> str:
    """Return the text with lone surrogates replaced: one of them would break the encoding of a whole export."""
    return text.encode("utf-8", "replace").decode()
