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
from ..protocols.json_edit import NO_CHANGES, BodyChanges, Path, StringEdit
from ..protocols.json_types import Json
from ..protocols.prompt_diff import PromptDiff
from ..protocols.protocol import Conversation, ProtocolAdapter
from ..stores.errors import ThrottledLogger, describe
from ..stores.originals import OriginalsError
from .compress import CompressionOptions, CompressionResult, ConversationCompressor
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
        conversation_compressor: ConversationCompressor,
        auto_mode: str = "extract",
        adapter: ProtocolAdapter = chat.ADAPTER,
    ) -> None:
        self._settings = settings
        self._conversation_compressor = conversation_compressor
        self._auto_mode = auto_mode
        self._adapter = adapter
        self._throttled_log = ThrottledLogger(log)

    async def rewrite_body(
        self,
        context: RequestContext,
        original_body: bytes,
        body: Json,
        owner_id: str,
        expand_tool: ExpandTool | None = None,
    ) -> bytes:
        """Return the body with its passages shortened: the very same object when nothing is to be changed.

        With an `offer` the model is offered what was left out, whether or not there is something yet.

        Raises:
            ApiError: 400 for a mode that cannot be had, 503 when compression failed and the request would rather fail.
        """
        context.mode = self._resolve_mode(context.options)
        if context.mode in PASSIVE_MODES or context.options.bypass:
            expand_tool = None
        conversation = self._adapter.read_conversation(body)
        if conversation is None:
            context.skip_counts = {"unknown-shape": 1}
            return original_body
        if context.options.bypass:
            context.skip_counts, context.is_estimated = {"bypass": 1}, True
            context.received_tokens = conversation.overhead_tokens + sum(map(estimate_tokens, conversation.texts()))
            return original_body
        context.prompt_diff = PromptDiff(self._adapter, body)
        try:
            new = await self._compress_conversation(context, original_body, conversation, owner_id, expand_tool)
        except ApiError:
            raise
        except Exception as error:  # law 4: no fault of ours may cost the client its answer
            self._log_failure(error)
            context.saved_tokens, context.potential_saved_tokens, context.passages, context.skip_counts = (
                0,
                None,
                (),
                {"failed": 1},
            )
            if context.options.fail_closed:
                raise _compression_failed_error() from error
            return original_body
        context.offers_expand_tool = expand_tool is not None
        budget = context.options.budget
        if (
            budget is not None
            and context.mode not in PASSIVE_MODES
            and context.received_tokens - context.saved_tokens > budget
        ):
            context.skip_counts["over-budget"] = 1
        return new

    async def _compress_conversation(
        self,
        context: RequestContext,
        original_body: bytes,
        conversation: Conversation,
        owner_id: str,
        expand_tool: ExpandTool | None,
    ) -> bytes:
        started, deadline = perf_counter(), context.options.deadline
        counted = get_token_counter(context.pricing_model)
        sizes = await self._conversation_compressor.token_counter.count_texts(
            counted, conversation.texts(), 0.0 if context.mode == "off" else deadline
        )
        context.is_late = sizes.is_late
        context.is_estimated = sizes.is_late or not counted.is_exact
        context.received_tokens = conversation.overhead_tokens + sum(sizes.tokens)
        rules = self._build_rules(context)
        if context.mode == "off":
            return original_body
        if sizes.is_late and context.options.fail_closed:
            raise _compression_failed_error()
        if sizes.is_late or (max(sizes.tokens, default=0) < rules.min_tokens and b"clara:" not in original_body):
            context.skip_counts = _count_skipped(sizes, conversation)
            none = await expand_tool.build_changes(counted, reinsert=False) if expand_tool is not None else NO_CHANGES
            return await _write_changes(context, original_body, {}, none)
        wanted = CompressionOptions(
            mode="extract" if context.mode == "observe" else context.mode,
            rules=rules,
            vocabulary=counted,
            agentic=conversation.agentic,
            owner_id=owner_id,
            reference_format=TOOL_REFERENCE_FORMAT
            if expand_tool is not None
            else URL_REFERENCE_FORMAT
            if context.options.retrieve == "url"
            else None,
            stores_originals=context.mode != "observe",
            fail_closed=context.options.fail_closed,
            timeout=max(0.0, deadline - (perf_counter() - started)),
            request_id=context.id,
        )
        shortened = await self._conversation_compressor.compress(
            conversation.turns(), wanted, new_chars=sizes.new_chars
        )
        added = (
            await expand_tool.build_changes(counted, reinsert=bool(shortened.edits))
            if expand_tool is not None
            else NO_CHANGES
        )
        return await self._apply_result(context, original_body, shortened, added)

    async def _apply_result(
        self, context: RequestContext, original_body: bytes, shortened: CompressionResult, added: BodyChanges
    ) -> bytes:
        if shortened.has_failed and context.options.fail_closed:
            raise _compression_failed_error()
        context.passages, context.skip_counts = tuple(shortened.passages), dict(shortened.skip_counts)
        context.is_late = shortened.is_late
        if context.prompt_diff is not None:
            context.prompt_diff.is_rewritten = shortened.is_rewritten
        context.compressor_seconds, context.model_cost = shortened.compressor_seconds, shortened.model_cost
        if context.mode == "observe":
            context.potential_saved_tokens = shortened.saved_tokens
            return original_body
        context.saved_tokens = shortened.saved_tokens
        context.engine = "none" if not shortened.saved_tokens else "extract" if context.mode == "extract" else "clara"
        return await _write_changes(
            context,
            original_body,
            {slot.path: StringEdit(slot.text, text) for slot, text in shortened.edits.items()},
            added,
        )

    def _log_failure(self, error: Exception) -> None:
        if isinstance(error, OriginalsError):  # as with a full disk, which every request meets
            self._throttled_log.warn(
                f"originals cannot be stored, and passages are sent as they came: {describe(error)}"
            )
            return
        # Where it happened, and not what the exception says: that may be somebody's text (law 8).
        log.warning("compression failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))

    def _resolve_mode(self, asked: RequestOptions) -> str:
        if asked.bypass:
            return "off"
        mode = self._auto_mode if asked.mode == "auto" else asked.mode
        if mode not in PASSIVE_MODES | self._conversation_compressor.available_modes:
            message = f"mode {mode} needs a local CLaRa model, and none is configured (CLARA_MODEL); auto needs none"
            raise ApiError(400, message, param=HEADER_PREFIX + "mode", code="mode_unavailable")
        return mode

    def _build_rules(self, context: RequestContext) -> Rules:
        asked = context.options
        return Rules(
            ratio=asked.ratio,
            min_tokens=asked.min_tokens,
            roles=asked.roles,
            budget=asked.budget,
            query=asked.query,
            protected_tools=frozenset(self._settings.protected_tools),
            file_tools=frozenset(self._settings.file_tools),
            epoch_tokens=self._epoch_tokens(context.pricing_model),
            epoch_price=self._settings.epoch_price,
        )

    def _epoch_tokens(self, model: str) -> int:
        price = prices.find_price(model)
        window = price.context_window if price is not None and price.context_window else self._settings.window
        return int(self._settings.epoch_share * window)


async def _write_changes(
    context: RequestContext, original_body: bytes, edits: Mapping[Path, StringEdit], added: BodyChanges
) -> bytes:
    """Write the changes into the body, and count what they add to what is sent."""
    if not edits and not added.array_edits:
        return original_body
    wanted = original_body, {**added.string_edits, **edits}, added.array_edits
    long = len(original_body) > LONG_BODY_BYTES  # to walk it would hold up the event loop
    new = await asyncio.to_thread(json_edit.apply_edits, *wanted) if long else json_edit.apply_edits(*wanted)
    context.add_proxy_tokens(added.tokens)
    if context.prompt_diff is not None:
        context.prompt_diff.record_changes(
            edits, added, context.received_tokens, context.received_tokens - context.saved_tokens
        )
    return new


def _count_skipped(sizes: TokenCounts, conversation: Conversation) -> dict[str, int]:
    if sizes.is_late:
        return {"late": 1}
    return {"too-short": conversation.element_count} if conversation.element_count else {}


def _compression_failed_error() -> ApiError:
    message = "compression failed or was late, and the request asks to fail closed"
    return ApiError(503, message, code="compression_failed", headers={"retry-after": "1"})
