"""Names that clients choose, made fit to be labels: readable text, and no more of them than somebody can store.

Whoever counts by a name keeps something for each one for ever. The invariant: however many names come, at most so many
labels leave, besides `OTHER` and `NONE`.
"""

from ..stores.ledger_row import Row

OTHER_LABEL, NONE_LABEL = "other", "none"
MAX_MODELS = 50  # that are told apart


class LabelLimiter:
    """The first `most` names that are met; each later one is `OTHER`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[str, str] = {"": NONE_LABEL}

    def get_label(self, name: str, *, is_kept: bool = True) -> str:
        """Return the label for a name; one that is met for the first time and does not stay is `OTHER`."""
        label = self._known.get(name)
        if label is not None:
            return label
        if not is_kept or len(self._known) > self._most:
            return OTHER_LABEL
        return self._known.setdefault(name, replace_surrogates(name))


class ModelLabels(LabelLimiter):
    """The models of rows."""

    def __init__(self) -> None:
        super().__init__(MAX_MODELS)

    def get_row_label(self, row: Row) -> str:
        """Return the label for a row's model; what CLaRa itself answered is of its own name, not of a folder's."""
        # A model that nobody serves is but a client's word, and takes no place.
        stays = row.outcome in {"ok", "served"}
        return self.get_label(row.engine if row.mode_used == "latent" else row.model, is_kept=stays)


def replace_surrogates(text: str) -> str:
    """Return text that can be written as UTF-8: one lone surrogate would break a whole page or a whole export."""
    return text.encode("utf-8", "replace").decode()
