"""From a request's body to a shorter one: which mode holds, what is counted, what is shortened, and the splice.

Whatever goes wrong here, the original goes up and the visit says why (law 4), unless the request asked to fail closed.
"""

import asyncio
import logging
from collections.abc import Mapping
from time import perf_counter
from traceback import format_tb

from ...compression.policy import Rules
from ...compression.tokens import estimate, vocabulary
from ...config import prices
from ...config.settings import Settings
from ..expand.tool import Offer
from ..http.request_context import Visit
from ..http.request_options import PREFIX, Steering
from ..protocols import chat, expand_call, json_edit
from ..protocols.api_errors import ApiError
from ..protocols.json_edit import NO_CHANGES, Changes, Edit, Path
from ..protocols.json_types import Json
from ..protocols.prompt_diff import Layout
from ..protocols.protocol import Conversation, Wire
from ..stores.errors import Seldom, words
from ..stores.originals import OriginalsError
from .compress import Shortened, Shortener, Wanted
from .counting import TokenCounts

TOOL_REFERENCE_FORMAT, URL_REFERENCE_FORMAT = f"{expand_call.NAME} {{}}", "GET /v1/retrieve/{}"  # what a marker says, with the original's name
LONG_BODY_BYTES = 2**19  # bytes of a body
PASSIVE_MODES = frozenset({"off", "observe"})
log = logging.getLogger(__name__)


class BodyRewriter:
    """Shortens the bodies of one protocol's requests."""

    def __init__(self, settings: Settings, shortener: Shortener, auto: str = "extract", wire: Wire = chat.WIRE) -> None:
        self._settings = settings
        self._shortener = shortener
        self._auto = auto
        self._wire = wire
        self._seldom = Seldom(log)

    async def rewrite_body(self, visit: Visit, plain: bytes, body: Json, owner: str, offer: Offer | None = None) -> bytes:
        """Return the body with its passages shortened: the very same object when nothing is to be changed.

        With an `offer` the model is offered what was left out, whether or not there is something yet.

        Raises:
            ApiError: 400 for a mode that cannot be had, 503 when compression failed and the request would rather fail.
        """
        visit.mode = self._mode(visit.steering)
        if visit.mode in PASSIVE_MODES or visit.steering.bypass:
            offer = None
        conversation = self._wire.read(body)
        if conversation is None:
            visit.skipped = {"unknown-shape": 1}
            return plain
        if visit.steering.bypass:
            visit.skipped, visit.estimated = {"bypass": 1}, True
            visit.received = conversation.overhead + sum(map(estimate, conversation.texts()))
            return plain
        visit.layout = Layout(self._wire, body)
        try:
            new = await self._condense(visit, plain, conversation, owner, offer)
        except ApiError:
            raise
        except Exception as error:  # law 4: no fault of ours may cost the client its answer
            self._complain(error)
            visit.saved, visit.would_save, visit.passages, visit.skipped = 0, None, (), {"failed": 1}
            if visit.steering.fail_closed:
                raise _failed_closed() from error
            return plain
        visit.offered = offer is not None
        budget = visit.steering.budget
        if budget is not None and visit.mode not in PASSIVE_MODES and visit.received - visit.saved > budget:
            visit.skipped["over-budget"] = 1
        return new

    async def _condense(
        self, visit: Visit, plain: bytes, conversation: Conversation, owner: str, offer: Offer | None
    ) -> bytes:
        started, deadline = perf_counter(), visit.steering.deadline
        counted = vocabulary(visit.priced_as)
        sizes = await self._shortener.counting.count_texts(
            counted, conversation.texts(), 0.0 if visit.mode == "off" else deadline
        )
        visit.late = sizes.is_late
        visit.estimated = sizes.is_late or not counted.exact
        visit.received = conversation.overhead + sum(sizes.tokens)
        rules = self._rules(visit)
        if visit.mode == "off":
            return plain
        if sizes.is_late and visit.steering.fail_closed:
            raise _failed_closed()
        if sizes.is_late or (max(sizes.tokens, default=0) < rules.min_tokens and b"clara:" not in plain):
            visit.skipped = _left_alone(sizes, conversation)
            none = await offer.changes(counted, recall=False) if offer is not None else NO_CHANGES
            return await _spliced(visit, plain, {}, none)
        wanted = Wanted(
            mode="extract" if visit.mode == "observe" else visit.mode,
            rules=rules,
            vocabulary=counted,
            agentic=conversation.agentic,
            owner=owner,
            fetches=TOOL_REFERENCE_FORMAT if offer is not None else URL_REFERENCE_FORMAT if visit.steering.retrieve == "url" else None,
            keeps=visit.mode != "observe",
            closed=visit.steering.fail_closed,
            seconds=max(0.0, deadline - (perf_counter() - started)),
            request=visit.id,
        )
        shortened = await self._shortener.shorten(conversation.turns(), wanted, new=sizes.new_chars)
        added = await offer.changes(counted, recall=bool(shortened.edits)) if offer is not None else NO_CHANGES
        return await self._applied(visit, plain, shortened, added)

    async def _applied(self, visit: Visit, plain: bytes, shortened: Shortened, added: Changes) -> bytes:
        if shortened.failed and visit.steering.fail_closed:
            raise _failed_closed()
        visit.passages, visit.skipped = tuple(shortened.passages), dict(shortened.skipped)
        visit.late = shortened.late
        if visit.layout is not None:
            visit.layout.rewritten = shortened.rewritten
        visit.compressor_seconds, visit.spent = shortened.seconds, shortened.spent
        if visit.mode == "observe":
            visit.would_save = shortened.saved
            return plain
        visit.saved = shortened.saved
        visit.engine = "none" if not shortened.saved else "extract" if visit.mode == "extract" else "clara"
        return await _spliced(
            visit, plain, {slot.path: Edit(slot.text, text) for slot, text in shortened.edits.items()}, added
        )

    def _complain(self, error: Exception) -> None:
        if isinstance(error, OriginalsError):  # as with a full disk, which every request meets
            self._seldom.warn(f"originals cannot be stored, and passages are sent as they came: {words(error)}")
            return
        # Where it happened, and not what the exception says: that may be somebody's text (law 8).
        log.warning("compression failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))

    def _mode(self, asked: Steering) -> str:
        if asked.bypass:
            return "off"
        mode = self._auto if asked.mode == "auto" else asked.mode
        if mode not in PASSIVE_MODES | self._shortener.modes:
            message = f"mode {mode} needs a local CLaRa model, and none is configured (CLARA_MODEL); auto needs none"
            raise ApiError(400, message, param=PREFIX + "mode", code="mode_unavailable")
        return mode

    def _rules(self, visit: Visit) -> Rules:
        asked = visit.steering
        return Rules(
            ratio=asked.ratio,
            min_tokens=asked.min_tokens,
            roles=asked.roles,
            budget=asked.budget,
            query=asked.query,
            protected_tools=frozenset(self._settings.protected_tools),
            file_tools=frozenset(self._settings.file_tools),
            epoch_tokens=self._epoch_tokens(visit.priced_as),
            epoch_price=self._settings.epoch_price,
        )

    def _epoch_tokens(self, model: str) -> int:
        price = prices.find(model)
        window = price.window if price is not None and price.window else self._settings.window
        return int(self._settings.epoch_share * window)


async def _spliced(visit: Visit, plain: bytes, edits: Mapping[Path, Edit], added: Changes) -> bytes:
    """Write the changes into the body, and count what they add to what is sent."""
    if not edits and not added.weaves:
        return plain
    wanted = plain, {**added.edits, **edits}, added.weaves
    long = len(plain) > LONG_BODY_BYTES  # to walk it would hold up the event loop
    new = await asyncio.to_thread(json_edit.replace, *wanted) if long else json_edit.replace(*wanted)
    visit.added(added.tokens)
    if visit.layout is not None:
        visit.layout.changed(edits, added, visit.received, visit.received - visit.saved)
    return new


def _left_alone(sizes: TokenCounts, conversation: Conversation) -> dict[str, int]:
    if sizes.is_late:
        return {"late": 1}
    return {"too-short": conversation.length} if conversation.length else {}


def _failed_closed() -> ApiError:
    message = "compression failed or was late, and the request asks to fail closed"
    return ApiError(503, message, code="compression_failed", headers={"retry-after": "1"})
