"""From a request's body to a shorter one: which mode holds, what is counted, what is shortened, and the splice.

Whatever goes wrong here, the original goes up and the visit says why (law 4), unless the request asked to fail closed.
"""

import asyncio
import logging
from collections.abc import Mapping
from time import perf_counter
from traceback import format_tb

from ...compression.policy import Rules
from ...compression.tokens import estimate_tokens, get_token_counter
from ...config import prices
from ...config.settings import Settings
from ..expand.tool import ExpandTool
from ..http.request_context import RequestContext
from ..http.request_options import HEADER_PREFIX, RequestOptions
from ..protocols import chat, expand_call, json_edit
from ..protocols.api_errors import ApiError
from ..protocols.json_edit import NO_CHANGES, BodyChanges, StringEdit, Path
from ..protocols.json_types import Json
from ..protocols.prompt_diff import PromptDiff
from ..protocols.protocol import Conversation, ProtocolAdapter
from ..stores.errors import ThrottledLogger, describe
from ..stores.originals import OriginalsError
from .compress import CompressionResult, ConversationCompressor, CompressionOptions
from .counting import TokenCounts

TOOL_REFERENCE_FORMAT, URL_REFERENCE_FORMAT = (
    f"{expand_call.TOOL_NAME} {{}}",
    "GET /v1/retrieve/{}",
)  # what a marker says, with the original's name
LONG_BODY_BYTES = 2**19  # bytes of a body
PASSIVE_MODES = frozenset({"off", "observe"})
log = logging.getLogger(__name__)


class BodyRewriter:
    """Shortens the bodies of one protocol's requests."""

    def __init__(
        self,
        settings: Settings,
        shortener: ConversationCompressor,
        auto: str = "extract",
        wire: ProtocolAdapter = chat.ADAPTER,
    ) -> None:
        self._settings = settings
        self._shortener = shortener
        self._auto = auto
        self._wire = wire
        self._seldom = ThrottledLogger(log)

    async def rewrite_body(
        self, visit: RequestContext, plain: bytes, body: Json, owner: str, offer: ExpandTool | None = None
    ) -> bytes:
        """Return the body with its passages shortened: the very same object when nothing is to be changed.

        With an `offer` the model is offered what was left out, whether or not there is something yet.

        Raises:
            ApiError: 400 for a mode that cannot be had, 503 when compression failed and the request would rather fail.
        """
        visit.mode = self._mode(visit.options)
        if visit.mode in PASSIVE_MODES or visit.options.bypass:
            offer = None
        conversation = self._wire.read_conversation(body)
        if conversation is None:
            visit.skip_counts = {"unknown-shape": 1}
            return plain
        if visit.options.bypass:
            visit.skip_counts, visit.is_estimated = {"bypass": 1}, True
            visit.received_tokens = conversation.overhead_tokens + sum(map(estimate_tokens, conversation.texts()))
            return plain
        visit.prompt_diff = PromptDiff(self._wire, body)
        try:
            new = await self._condense(visit, plain, conversation, owner, offer)
        except ApiError:
            raise
        except Exception as error:  # law 4: no fault of ours may cost the client its answer
            self._complain(error)
            visit.saved_tokens, visit.potential_saved_tokens, visit.passages, visit.skip_counts = (
                0,
                None,
                (),
                {"failed": 1},
            )
            if visit.options.fail_closed:
                raise _failed_closed() from error
            return plain
        visit.offers_expand_tool = offer is not None
        budget = visit.options.budget
        if (
            budget is not None
            and visit.mode not in PASSIVE_MODES
            and visit.received_tokens - visit.saved_tokens > budget
        ):
            visit.skip_counts["over-budget"] = 1
        return new

    async def _condense(
        self, visit: RequestContext, plain: bytes, conversation: Conversation, owner: str, offer: ExpandTool | None
    ) -> bytes:
        started, deadline = perf_counter(), visit.options.deadline
        counted = get_token_counter(visit.pricing_model)
        sizes = await self._shortener.token_counter.count_texts(
            counted, conversation.texts(), 0.0 if visit.mode == "off" else deadline
        )
        visit.is_late = sizes.is_late
        visit.is_estimated = sizes.is_late or not counted.is_exact
        visit.received_tokens = conversation.overhead_tokens + sum(sizes.tokens)
        rules = self._rules(visit)
        if visit.mode == "off":
            return plain
        if sizes.is_late and visit.options.fail_closed:
            raise _failed_closed()
        if sizes.is_late or (max(sizes.tokens, default=0) < rules.min_tokens and b"clara:" not in plain):
            visit.skip_counts = _left_alone(sizes, conversation)
            none = await offer.build_changes(counted, recall=False) if offer is not None else NO_CHANGES
            return await _spliced(visit, plain, {}, none)
        wanted = CompressionOptions(
            mode="extract" if visit.mode == "observe" else visit.mode,
            rules=rules,
            vocabulary=counted,
            agentic=conversation.agentic,
            owner_id=owner,
            reference_format=TOOL_REFERENCE_FORMAT
            if offer is not None
            else URL_REFERENCE_FORMAT
            if visit.options.retrieve == "url"
            else None,
            stores_originals=visit.mode != "observe",
            fail_closed=visit.options.fail_closed,
            timeout=max(0.0, deadline - (perf_counter() - started)),
            request_id=visit.id,
        )
        shortened = await self._shortener.compress(conversation.turns(), wanted, new=sizes.new_chars)
        added = await offer.build_changes(counted, recall=bool(shortened.edits)) if offer is not None else NO_CHANGES
        return await self._applied(visit, plain, shortened, added)

    async def _applied(
        self, visit: RequestContext, plain: bytes, shortened: CompressionResult, added: BodyChanges
    ) -> bytes:
        if shortened.has_failed and visit.options.fail_closed:
            raise _failed_closed()
        visit.passages, visit.skip_counts = tuple(shortened.passages), dict(shortened.skip_counts)
        visit.is_late = shortened.is_late
        if visit.prompt_diff is not None:
            visit.prompt_diff.is_rewritten = shortened.is_rewritten
        visit.compressor_seconds, visit.model_cost = shortened.compressor_seconds, shortened.model_cost
        if visit.mode == "observe":
            visit.potential_saved_tokens = shortened.saved_tokens
            return plain
        visit.saved_tokens = shortened.saved_tokens
        visit.engine = "none" if not shortened.saved_tokens else "extract" if visit.mode == "extract" else "clara"
        return await _spliced(
            visit, plain, {slot.path: StringEdit(slot.text, text) for slot, text in shortened.edits.items()}, added
        )

    def _complain(self, error: Exception) -> None:
        if isinstance(error, OriginalsError):  # as with a full disk, which every request meets
            self._seldom.warn(f"originals cannot be stored, and passages are sent as they came: {describe(error)}")
            return
        # Where it happened, and not what the exception says: that may be somebody's text (law 8).
        log.warning("compression failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))

    def _mode(self, asked: RequestOptions) -> str:
        if asked.bypass:
            return "off"
        mode = self._auto if asked.mode == "auto" else asked.mode
        if mode not in PASSIVE_MODES | self._shortener.available_modes:
            message = f"mode {mode} needs a local CLaRa model, and none is configured (CLARA_MODEL); auto needs none"
            raise ApiError(400, message, param=HEADER_PREFIX + "mode", code="mode_unavailable")
        return mode

    def _rules(self, visit: RequestContext) -> Rules:
        asked = visit.options
        return Rules(
            ratio=asked.ratio,
            min_tokens=asked.min_tokens,
            roles=asked.roles,
            budget=asked.budget,
            query=asked.query,
            protected_tools=frozenset(self._settings.protected_tools),
            file_tools=frozenset(self._settings.file_tools),
            epoch_tokens=self._epoch_tokens(visit.pricing_model),
            epoch_price=self._settings.epoch_price,
        )

    def _epoch_tokens(self, model: str) -> int:
        price = prices.find_price(model)
        window = price.context_window if price is not None and price.context_window else self._settings.window
        return int(self._settings.epoch_share * window)


async def _spliced(visit: RequestContext, plain: bytes, edits: Mapping[Path, StringEdit], added: BodyChanges) -> bytes:
    """Write the changes into the body, and count what they add to what is sent."""
    if not edits and not added.array_edits:
        return plain
    wanted = plain, {**added.string_edits, **edits}, added.array_edits
    long = len(plain) > LONG_BODY_BYTES  # to walk it would hold up the event loop
    new = await asyncio.to_thread(json_edit.apply_edits, *wanted) if long else json_edit.apply_edits(*wanted)
    visit.add_proxy_tokens(added.tokens)
    if visit.prompt_diff is not None:
        visit.prompt_diff.record_changes(
            edits, added, visit.received_tokens, visit.received_tokens - visit.saved_tokens
        )
    return new


def _left_alone(sizes: TokenCounts, conversation: Conversation) -> dict[str, int]:
    if sizes.is_late:
        return {"late": 1}
    return {"too-short": conversation.element_count} if conversation.element_count else {}


def _failed_closed() -> ApiError:
    message = "compression failed or was late, and the request asks to fail closed"
    return ApiError(503, message, code="compression_failed", headers={"retry-after": "1"})
