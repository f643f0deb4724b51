"""The verdict of one attack. Every module `NAME_attacks.py` of this folder has `run(quick) -> list[Verdict]`."""

from typing import NamedTuple


class Verdict(NamedTuple):
    """How many attempts were made, and how many did no harm. `detail` holds what was measured, on one line."""

    name: str
    tried: int
    survived: int
    detail: str = ""

    @property
    def has_held(self) -> bool:
        """Return True if at least one attempt was made and none did harm."""
        return 0 < self.tried == self.survived
