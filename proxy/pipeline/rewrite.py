"""Rewrites a request body: resolves the mode, counts tokens, compresses the conversation, and writes the new JSON.

If anything fails here, the original body is forwarded and the context says why (invariant: fail-open), unless the
request asks to fail closed.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import perf_counter
from traceback import format_tb
from typing import NamedTuple

from ...compression.models.model_compression import MODEL_ENGINES
from ...compression.policy import Rules
from ...compression.tokens import TokenCounter, estimate_tokens, get_token_counter
from ...compression.transcript import ToolCall, Turn
from ...config.settings import Settings
from ..expand.tool import ExpandTool
from ..http.request_context import RequestContext
from ..http.request_options import HEADER_PREFIX, RequestOptions
from ..protocols import chat, expand_call, json_codec, json_edit, offload
from ..protocols.api_errors import ApiError, build_compression_error
from ..protocols.json_edit import NO_CHANGES, BodyChanges, JsonEditError, Path, StringEdit
from ..protocols.json_types import Json, is_array, is_object
from ..protocols.prompt_diff import PromptDiff
from ..protocols.protocol import Conversation, ProtocolAdapter
from ..stores.errors import ThrottledLogger, describe
from ..stores.originals import OriginalsError
from . import known_conversations
from .compress import CompressionOptions, CompressionResult, ConversationCompressor, TokenCounts
from .known_conversations import MAX_KNOWN_BYTES, NO_ELEMENTS, UNKNOWN, Elements, KnownConversation, read_elements
from .request_rules import RequestRules

# The reference of a marker to its original, by the original's name.
TOOL_REFERENCE_FORMAT, URL_REFERENCE_FORMAT = f"{expand_call.TOOL_NAME} {{}}", "GET /v1/retrieve/{}"
TOOL_ROLES = frozenset({"tool", "function"})
MAX_DIFF_TEXTS = 4000  # texts of a conversation whose cost without the proxy is estimated
MIN_REMEMBERED_WORK = 4096  # work (see `offload`) of a body from which on remembering costs less than planning again
PASSIVE_MODES = frozenset({"off", "observe"})
log = logging.getLogger(__name__)


class _Request(NamedTuple):
    """A request body as text and parsed, with its context, its owner, and the tool that it offers."""

    context: RequestContext
    text: bytes
    body: Json
    owner_id: str
    expand_tool: ExpandTool | None
    additions: BodyChanges
    work: int

    async def build_additions(self, vocabulary: TokenCounter, *, reinsert: bool) -> BodyChanges:
        """Return what the proxy adds: the passages of stores, the tool, and the hidden calls of earlier replies."""
        if self.expand_tool is None:
            return self.additions
        reinsert = reinsert or self.expand_tool.can_search  # the model may have searched before anything was compressed
        tool_changes = await self.expand_tool.build_changes(vocabulary, reinsert=reinsert)
        return json_edit.join_changes(self.additions, tool_changes)


class BodyRewriter:
    """Rewrites the request bodies of one protocol."""

    def __init__(
        self,
        settings: Settings,
        conversation_compressor: ConversationCompressor,
        auto_mode: str = "extract",
        adapter: ProtocolAdapter = chat.ADAPTER,
    ) -> None:
        self._rules = RequestRules(settings, conversation_compressor.pruned_kinds)
        self._conversation_compressor = conversation_compressor
        self._auto_mode = auto_mode
        self._adapter = adapter
        self._memory = conversation_compressor.memory
        self._throttled_log = ThrottledLogger(log)

    async def rewrite_body(
        self,
        context: RequestContext,
        original_body: bytes,
        body: Json,
        owner_id: str,
        expand_tool: ExpandTool | None = None,
        additions: BodyChanges = NO_CHANGES,
    ) -> bytes:
        """Return the body with compressed passages: the same object if nothing changes.

        `body` is the parsed `original_body`. With `expand_tool` the body offers the tool, even if no passage refers to
        it yet. `additions` are made in every mode, and what they add is never compressed.

        Raises:
            ApiError: 400 for an unavailable mode, 503 if compression failed and the request asks to fail closed.
        """
        context.mode = self._resolve_mode(context.options)
        if context.mode in PASSIVE_MODES or context.options.bypass:
            expand_tool = None
        work = context.body_work or offload.measure_work(original_body)
        request = _Request(context, original_body, body, owner_id, expand_tool, additions, work)
        if (conversation := await offload.run_for(work, self._adapter.read_conversation, body)) is None:
            context.skip_counts = {"unknown-shape": 1}
        elif context.options.bypass:
            context.skip_counts, context.is_estimated = {"bypass": 1}, True
            context.received_tokens = await offload.run_for(work, _estimate_tokens, conversation)
        else:
            return await self._compress_or_fail_open(request, conversation)
        return original_body

    async def _compress_or_fail_open(self, request: _Request, conversation: Conversation) -> bytes:
        context = request.context
        context.prompt_diff = PromptDiff(self._adapter, request.body)
        try:
            text = await self._compress_conversation(request, conversation)
        except ApiError:
            raise
        except Exception as error:  # fail open: a fault of the proxy must not cost the client its answer
            self._log_failure(error)
            context.saved_tokens, context.potential_saved_tokens = 0, None
            context.passages, context.skip_counts = (), {"failed": 1}
            if context.options.fail_closed:
                raise build_compression_error(is_too_long=context.is_too_long) from error
            return await self._write_additions(request)
        context.offers_expand_tool = request.expand_tool is not None
        sent_tokens = context.received_tokens - context.saved_tokens
        budget = context.options.budget
        if budget is not None and context.mode not in PASSIVE_MODES and sent_tokens > budget:
            context.skip_counts["over-budget"] = 1
        return text

    async def _compress_conversation(self, request: _Request, conversation: Conversation) -> bytes:
        context = request.context
        start_time = perf_counter()
        vocabulary = get_token_counter(context.pricing_model)
        options, elements, known, texts = await offload.run_for(
            request.work, self._read_new_texts, request, conversation, vocabulary, start_time
        )
        counts = await self._conversation_compressor.count_texts(
            vocabulary, texts, 0.0 if context.mode == "off" else context.options.deadline
        )
        if context.prompt_diff is not None:
            context.prompt_diff.element_texts = elements.texts
        if counts.is_late or known.text_count + len(texts) > MAX_DIFF_TEXTS:  # counting again takes as long, at the end
            context.prompt_diff = None
        context.is_late, context.is_too_long = counts.is_late, counts.is_too_long
        context.is_estimated = counts.is_late or not vocabulary.is_exact
        context.received_tokens = conversation.overhead_tokens + known.tokens + sum(counts.tokens)
        if context.mode == "off":
            return await self._write_changes(request, {}, request.additions, elements)
        if counts.is_late and context.options.fail_closed:
            raise build_compression_error(is_too_long=context.is_too_long)
        calls = dict(known.calls)
        max_tokens = max(known.max_tokens, *counts.tokens, 0)
        new_turns = await offload.run_for(
            request.work, self._read_new_turns, request, conversation, options.rules, max_tokens, known, calls
        )
        if counts.is_late or new_turns is None:
            context.skip_counts = _count_skipped(counts, conversation)
            additions = await request.build_additions(vocabulary, reinsert=False)
            return await self._write_changes(request, {}, additions, elements)
        if context.mode in MODEL_ENGINES:
            options = options._replace(timeout=context.options.model_deadline)
        turns = [*known.compressed.plan.turns, *new_turns]
        result = await self._conversation_compressor.compress(
            turns,
            options,
            known=known.compressed,
            checkpoint=known_conversations.find_checkpoint(conversation, elements, known, len(turns)),
        )
        if request.expand_tool is not None:
            request.expand_tool.known_prefix_hash = known.prefix_hash
        additions = await request.build_additions(vocabulary, reinsert=bool(result.compressed.edits))
        if elements.keys and result.is_final:
            await self._remember(request, conversation, elements, known, calls, result)
        return await self._apply_result(request, result, additions, elements)

    async def _remember(
        self,
        request: _Request,
        conversation: Conversation,
        elements: Elements,
        known: KnownConversation,
        calls: Mapping[str, ToolCall],
        result: CompressionResult,
    ) -> None:
        """Remember the results of a request for the next one, and those up to its checkpoint."""
        vocabulary = get_token_counter(request.context.pricing_model)
        prefix_hash = None if request.expand_tool is None else request.expand_tool.copy_prefix_hash()
        tokens = await offload.run_for(request.work, _count_elements, conversation, known.element_count, vocabulary)
        if result.checkpoint is not None:
            head = elements.without_last()
            head_tokens = tokens[: len(tokens) - len(conversation.read_texts(len(head.keys)))]
            checkpoint = known.extend(head, head_tokens, calls, result.checkpoint, None)
            known = self._memory.remember(head, checkpoint._replace(is_checkpoint=True), known)
            tokens = tokens[len(head_tokens) :]
        self._memory.remember(elements, known.extend(elements, tokens, calls, result.compressed, prefix_hash), known)

    def _read_new_texts(
        self, request: _Request, conversation: Conversation, vocabulary: TokenCounter, start_time: float
    ) -> tuple[CompressionOptions, Elements, KnownConversation, list[str]]:
        """Return the options, the elements with these in their keys, what is known of them, and the other texts.

        Each text remembers its hash, which takes long for a long text.
        """
        context, elements, known = request.context, NO_ELEMENTS, UNKNOWN
        options = self._build_options(request, conversation, vocabulary, start_time)
        if context.mode != "off" and _may_be_remembered(request, conversation):
            scope = (self._adapter.name, context.mode, *options.scope)
            value = request.body.get(self._adapter.elements_key)
            elements = read_elements(value, request.owner_id, scope, context.element_texts)
            known = self._memory.find(elements)
        texts = [*conversation.read_texts(known.element_count), *conversation.other_texts()]
        for text in texts:
            hash(text)
        return options, elements, known, texts

    def _read_new_turns(
        self,
        request: _Request,
        conversation: Conversation,
        rules: Rules,
        max_tokens: int,
        known: KnownConversation,
        calls: dict[str, ToolCall],
    ) -> list[Turn] | None:
        """Return the turns that are not known, or None if nothing can change; `calls` gets their tool calls."""
        if not self._may_change(request, max_tokens, rules):
            return None
        return conversation.read_turns(known.element_count, calls)

    def _may_change(self, request: _Request, max_tokens: int, rules: Rules) -> bool:
        """Return False if no passage can change, because the largest text has `max_tokens` tokens.

        The largest text grows with a conversation, but earlier messages must not change. So repeated tool outputs are
        removed as soon as a text is large enough to be one.
        """
        if max_tokens >= rules.min_tokens or b"clara:" in request.text or b"compaction" in request.text:
            return True
        return max_tokens >= rules.min_dedup_tokens and _has_tool_outputs(request.body[self._adapter.elements_key])

    def _build_options(
        self, request: _Request, conversation: Conversation, vocabulary: TokenCounter, start_time: float
    ) -> CompressionOptions:
        context = request.context
        reference_format = None
        if request.expand_tool is not None and request.expand_tool.is_callable:
            reference_format = TOOL_REFERENCE_FORMAT
        elif context.options.retrieve == "url":
            reference_format = URL_REFERENCE_FORMAT
        return CompressionOptions(
            mode="extract" if context.mode == "observe" else context.mode,
            rules=self._rules.build_rules(
                context.options, context.pricing_model, context.mode, is_agentic=conversation.agentic
            ),
            vocabulary=vocabulary,
            agentic=conversation.agentic,
            owner_id=request.owner_id,
            reference_format=reference_format,
            stores_originals=context.mode != "observe",
            fail_closed=context.options.fail_closed,
            timeout=context.options.deadline,
            start_time=start_time,
            request_id=context.id,
        )

    async def _apply_result(
        self, request: _Request, result: CompressionResult, additions: BodyChanges, elements: Elements
    ) -> bytes:
        context = request.context
        if result.has_failed and context.options.fail_closed:
            raise build_compression_error(is_too_long=context.is_too_long)
        compressed = result.compressed
        context.passages, context.skip_counts = tuple(compressed.passages), dict(result.skip_counts)
        context.is_late = result.is_late
        if context.prompt_diff is not None:
            context.prompt_diff.is_pruned = result.is_rewritten
        context.compressor_seconds, context.model_cost = result.compressor_seconds, result.model_cost
        if context.mode == "observe":
            context.potential_saved_tokens = compressed.saved_tokens
            return await self._write_changes(request, {}, additions, elements)
        context.saved_tokens = compressed.saved_tokens
        context.engine = result.engine if compressed.saved_tokens else "none"
        edits = {slot.path: StringEdit(slot.text, text) for slot, text in compressed.edits.items()}
        return await self._write_changes(request, edits, additions, elements)

    async def _write_changes(
        self,
        request: _Request,
        edits: Mapping[Path, StringEdit],
        additions: BodyChanges,
        elements: Elements,
    ) -> bytes:
        """Return the body with all changes, and record the tokens that the proxy adds."""
        context = request.context
        edits = json_edit.join_string_edits(additions.string_edits, edits)
        if not edits and not additions.array_edits:
            return request.text
        key, changes = self._adapter.elements_key, additions._replace(string_edits=edits)
        text = await json_codec.rewrite(write_body, request.text, request.body, changes, key, elements.texts)
        context.add_proxy_tokens(additions.tokens)
        if context.prompt_diff is not None:
            context.prompt_diff.record_changes(
                edits, additions, context.received_tokens, context.received_tokens - context.saved_tokens
            )
        return text

    async def _write_additions(self, request: _Request) -> bytes:
        """Return the uncompressed body with the additions, or without them if it cannot be edited."""
        try:
            return await self._write_changes(request, {}, request.additions, NO_ELEMENTS)
        except JsonEditError:
            return request.text

    def _log_failure(self, error: Exception) -> None:
        if isinstance(error, OriginalsError):  # as with a full disk, which every request meets
            self._throttled_log.warn(f"originals cannot be stored; passages are forwarded unchanged: {describe(error)}")
            return
        # The place, and not the message, which may hold a client's text (invariant: private).
        log.warning("compression failed: %s\n%s", type(error).__name__, "".join(format_tb(error.__traceback__)))

    def _resolve_mode(self, options: RequestOptions) -> str:
        if options.bypass:
            return "off"
        mode = self._auto_mode if options.mode == "auto" else options.mode
        if mode not in PASSIVE_MODES and mode not in self._conversation_compressor.available_modes:
            model, setting = ("pruner", "CLARA_PRUNER") if mode == "prune" else ("local CLaRa model", "CLARA_MODEL")
            message = f"mode {mode} needs a {model}, and {setting} is not set; set it, or use mode auto"
            raise ApiError(400, message, param=HEADER_PREFIX + "mode", code="mode_unavailable")
        return mode


def write_body(
    text: bytes, body: Json, changes: BodyChanges, key: str = "", element_texts: Sequence[bytes] = ()
) -> bytes:
    """Apply changes to a parsed body and write it. Every other value stays equal as JSON (invariant: structure).

    The elements of the array `key` that do not change are written as `element_texts`, if these are known.
    """
    if element_texts and json_codec.dumps_with_texts(body, key, element_texts) == text.strip():
        edited = json_edit.apply_edits(body, changes.string_edits, changes.array_edits)
        originals = {id(element): text for element, text in zip(body[key], element_texts, strict=True)}
        written = [originals.get(id(element), element) for element in edited[key]]
        with suppress(TypeError):  # a hidden call in it may hold what orjson cannot write
            return json_codec.dumps_with_texts(edited, key, written)
    exact_body = json_codec.reload_exactly(text, body)
    if not is_object(exact_body):
        raise ValueError("the request body is not a JSON object")
    return json_codec.dumps(json_edit.apply_edits(exact_body, changes.string_edits, changes.array_edits))


def _may_be_remembered(request: _Request, conversation: Conversation) -> bool:
    is_too_long = len(request.text) > MAX_KNOWN_BYTES
    return conversation.is_growing and request.work >= MIN_REMEMBERED_WORK and not is_too_long


def _estimate_tokens(conversation: Conversation) -> int:
    return conversation.overhead_tokens + sum(map(estimate_tokens, conversation.texts()))


def _count_elements(conversation: Conversation, first: int, vocabulary: TokenCounter) -> list[int]:
    return [vocabulary.count(text) for text in conversation.read_texts(first)]


def _has_tool_outputs(elements: object) -> bool:
    """Return True if a list of messages or items may hold the output of a tool, in any protocol."""
    for element in elements if is_array(elements) else ():
        if element.get("role") in TOOL_ROLES:
            return True
        content = element.get("content")
        if content.__class__ is str:
            continue
        if str(element.get("type")).endswith("_output"):
            return True
        if is_array(content) and any("tool_use_id" in part for part in content):
            return True
    return False


def _count_skipped(counts: TokenCounts, conversation: Conversation) -> dict[str, int]:
    if counts.is_late:
        return {"late": 1}
    return {"too-short": conversation.element_count} if conversation.element_count else {}
