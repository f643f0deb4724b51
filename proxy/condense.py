"""From a chat's body to a shorter one: which mode holds, what is counted, what is shortened, and the splice.

Whatever goes wrong here, the original goes up and the visit says why (law 4), unless the request asked to fail closed.
"""

import asyncio
import logging
from traceback import format_tb

from ..compression.policy import Rules
from ..compression.tokens import Vocabulary, vocabulary
from ..config import prices
from ..config.settings import Settings
from . import chat, json_splice
from .errors import ApiError
from .json_splice import Edit
from .shapes import Json
from .shorten import INLINE, Shortened, Shortener, Wanted
from .steering import PREFIX, Steering
from .visit import Visit

UNCHANGED = frozenset({"off", "observe"})
log = logging.getLogger(__name__)


class Condenser:
    """Shortens the bodies of chat completions."""

    def __init__(self, settings: Settings, shortener: Shortener, auto: str = "extract") -> None:
        self._settings = settings
        self._shortener = shortener
        self._auto = auto

    async def condense(self, visit: Visit, plain: bytes, body: Json, owner: str) -> bytes:
        """Return the body with its passages shortened: the very same object when nothing is to be changed.

        Raises:
            ApiError: 400 for a mode that cannot be had, 503 when compression failed and the request would rather fail.
        """
        visit.mode = self._mode(visit.steering)
        listed = chat.messages(body)
        if listed is None or visit.steering.bypass:
            visit.skipped = {"unknown-shape": 1} if listed is None else {"bypass": 1}
            return plain
        try:
            new = await self._condense(visit, plain, body, listed, owner)
        except ApiError:
            raise
        except Exception as error:  # law 4: no fault of ours may cost the client its answer
            # Where it happened, and not what the exception says: that may be somebody's text (law 8).
            log.warning("compression failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))
            visit.saved, visit.would_save, visit.passages, visit.skipped = 0, None, (), {"failed": 1}
            if visit.steering.fail_closed:
                raise _failed_closed() from error
            return plain
        budget = visit.steering.budget
        if budget is not None and visit.mode not in UNCHANGED and visit.received - visit.saved > budget:
            visit.skipped["over-budget"] = 1
        return new

    async def _condense(self, visit: Visit, plain: bytes, body: Json, listed: list[Json], owner: str) -> bytes:
        counted = vocabulary(visit.model)
        visit.estimated = not counted.exact
        sizes, unknown = counted.known(chat.texts(body, listed))
        new = sum(map(len, unknown))
        slow = new > INLINE or not counted.loaded
        sizes += await asyncio.to_thread(_count, counted, unknown) if slow else _count(counted, unknown)
        visit.received = chat.overhead(listed) + sum(sizes)
        rules = self._rules(visit)
        if visit.mode == "off":
            return plain
        if max(sizes, default=0) < rules.min_tokens and b"clara:" not in plain:
            visit.skipped = {"too-short": len(listed)} if listed else {}
            return plain
        wanted = Wanted(
            mode="extract" if visit.mode == "observe" else visit.mode,
            rules=rules,
            vocabulary=counted,
            agentic=bool(body.get("tools") or body.get("functions")),
            owner=owner,
            fetches=visit.steering.retrieve,
            keeps=visit.mode != "observe",
            seconds=visit.steering.deadline,
        )
        shortened = await self._shortener.shorten(chat.turns(listed), wanted, new=new)
        return self._applied(visit, plain, shortened)

    def _applied(self, visit: Visit, plain: bytes, shortened: Shortened) -> bytes:
        if shortened.failed and visit.steering.fail_closed:
            raise _failed_closed()
        visit.passages, visit.skipped = tuple(shortened.passages), dict(shortened.skipped)
        visit.compressor_seconds, visit.spent = shortened.seconds, shortened.spent
        if visit.mode == "observe":
            visit.would_save = shortened.saved
            return plain
        edits = {slot.path: Edit(slot.text, text) for slot, text in shortened.edits.items()}
        new = json_splice.replace(plain, edits) if edits else plain
        visit.saved = shortened.saved
        visit.engine = "none" if not shortened.saved else "extract" if visit.mode == "extract" else "clara"
        return new

    def _mode(self, asked: Steering) -> str:
        if asked.bypass:
            return "off"
        mode = self._auto if asked.mode == "auto" else asked.mode
        if mode not in UNCHANGED | self._shortener.modes:
            message = f"mode {mode} needs a local CLaRa model, and none is configured (CLARA_MODEL); auto needs none"
            raise ApiError(400, message, param=PREFIX + "mode", code="mode_unavailable")
        return mode

    def _rules(self, visit: Visit) -> Rules:
        price = prices.find(visit.model)
        window = price.window if price is not None and price.window else self._settings.window
        asked = visit.steering
        return Rules(
            ratio=asked.ratio,
            min_tokens=asked.min_tokens,
            roles=asked.roles,
            budget=asked.budget,
            query=asked.query,
            protected_tools=frozenset(self._settings.protected_tools),
            file_tools=frozenset(self._settings.file_tools),
            epoch_tokens=int(self._settings.epoch_share * window),
        )


def _count(counted: Vocabulary, texts: list[str]) -> list[int]:
    return [counted.count(text) for text in texts]


def _failed_closed() -> ApiError:
    message = "compression failed or was late, and the request asks to fail closed"
    return ApiError(503, message, code="compression_failed", headers={"retry-after": "1"})
