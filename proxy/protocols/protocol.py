"""The interface of a protocol adapter, which lets one request path serve every protocol.

Each protocol has a module with one adapter: `chat`, `responses`, `messages`. This module depends on none of them.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ...compression.transcript import ToolCall, Turn
from .api_errors import ApiError
from .expand_call import EXPAND_TOOL, ExpandCall, ToolDefinition
from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json

Calls = dict[str, ToolCall]  # by the id that a call and its output share
BodyEdits = tuple[dict[Path, StringEdit], dict[Path, ArrayEdit]]


class Conversation(NamedTuple):
    """A parsed request body: `element_count` messages or items that cost `overhead_tokens` beyond their texts.

    `read_texts` lists the texts that count as tokens in the elements from an index on; `read_turns` lists the turns
    with the texts that may be compressed in them. It takes the calls of earlier elements by their ids, and adds those
    it meets. `other_texts` lists the texts that count outside of elements. All three read the body when called.
    `agentic` is True if the request offers tools. With `is_growing` the elements are those of earlier requests with
    more behind them; other conversations are read as a whole.
    """

    element_count: int
    overhead_tokens: int
    agentic: bool
    read_texts: Callable[[int], list[str]]
    other_texts: Callable[[], list[str]]
    read_turns: Callable[[int, Calls], list[Turn]]
    is_growing: bool = True

    def texts(self) -> list[str]:
        """List every text that counts as tokens."""
        return [*self.read_texts(0), *self.other_texts()]

    def turns(self) -> list[Turn]:
        """List the texts that may be compressed, by turns."""
        return self.read_turns(0, {})


class ReplyFilter(Protocol):
    """Reads the replies to one request, round by round, and removes the calls of the proxy's own tool.

    A round is one reply of the upstream. The client sees all rounds as a single reply.
    """

    @property
    def usage(self) -> Json | None:
        """Return the sum of the usages that the rounds have reported so far."""
        ...

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of the proxy's tool in this round."""
        ...

    @property
    def awaits_expansion(self) -> bool:
        """Return True if the model waits for the proxy's tool alone, so another round follows."""
        ...

    @property
    def has_hidden_rounds(self) -> bool:
        """Return True if a further round has begun."""
        ...

    @property
    def is_complete(self) -> bool:
        """Return True if this round's reply has reached its end."""
        ...

    def filter_event(self, raw: bytes) -> bytes:
        """Process one whole event of a stream and return the part for the client."""
        ...

    def filter_reply(self, reply: Json) -> Json:
        """Process a whole reply. Return it without hidden calls, with the text of earlier rounds before its own.

        The client gets the result only if no round follows; otherwise the caller drops it.
        """
        ...

    def end_round(self) -> bytes:
        """Process the end of a stream. Return the events that were held back, or nothing if another round follows.

        `filter_event` holds back the end of a round, such as its finish reason, while the round may turn out hidden.
        """
        ...

    def build_whole_reply(self) -> Json:
        """Return the streamed reply of this round as one JSON body, for a client that asked for no stream."""
        ...

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Begin the next round and return the elements that answer this round's calls."""
        ...

    def finish_stream(self) -> bytes:
        """Return the events that end the stream at the client if the model still calls the tool in the last round."""
        ...

    def list_visible_elements(self) -> list[Json]:
        """Return the elements that the client sends back later; the hidden ones belong at the last of them."""
        ...

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return the hidden calls and answers for re-insertion. `results` answer the calls of the last round."""
        ...


class ProtocolAdapter(Protocol):
    """A protocol's adapter. It reads parsed bodies and never changes them."""

    @property
    def name(self) -> str:
        """Return the protocol's name in the ledger."""
        ...

    @property
    def is_anthropic(self) -> bool:
        """Return True if requests go to the Anthropic upstream, False for the OpenAI upstream."""
        ...

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body. Return None for an unexpected shape; such a body is forwarded unchanged."""
        ...

    @property
    def elements_key(self) -> str:
        """Return the name of the field that holds the conversation: `messages` or `input`."""
        ...

    def build_expand_tool(self, body: Json, tool: ToolDefinition = EXPAND_TOOL) -> Json | None:
        """Return the definition of a hidden tool for this request, or None if it cannot be offered."""
        ...

    def create_reply_filter(self) -> ReplyFilter:
        """Return a filter for the replies to one request that offers the tool."""
        ...

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return bytes that identify an element, or None for one that clients may omit."""
        ...

    def reinsert_hidden(self, body: Json, index: int, hidden: Json) -> BodyEdits:
        """Return the edits that put a hidden record back at the element with this index."""
        ...

    @property
    def error_event_name(self) -> str:
        """Return the name of an error event, or an empty string if the protocol's events have no names."""
        ...

    def encode_error(self, error: ApiError) -> bytes:
        """Return an error as a response body."""
        ...

    def encode_error_event(self, error: ApiError) -> bytes:
        """Return an error as the last event of a stream that has started."""
        ...
