"""What a protocol has to say of itself, so that one request path serves them all: its adapter, and its shape of errors.

A protocol is one file with one `Wire`: `chat`, `responses`, `messages`. Nothing here knows any of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...compression.transcript import Turn
from .api_errors import ApiError
from .expand_call import ExpandCall
from .json_edit import ArrayEdit, Path, StringEdit
from .json_types import Json


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request body, read: `length` messages or items that cost `overhead` tokens beyond their texts.

    `texts` lists all that is counted, `turns` what can be shortened; each reads the body when it is called. `agentic`
    says that tools are on offer.
    """

    element_count: int
    overhead_tokens: int
    agentic: bool
    texts: Callable[[], list[str]]
    turns: Callable[[], list[Turn]]


class ReplyFilter(Protocol):
    """Reads the replies to one request, round by round, and takes out of them what only the proxy asked for."""

    @property
    def usage(self) -> Json | None:
        """Return what all rounds have used together, as far as they have told."""
        ...

    @property
    def expand_calls(self) -> list[ExpandCall]:
        """List the calls of ours in this round."""
        ...

    @property
    def awaits_expansion(self) -> bool:
        """Say whether the model waits for us alone: then the reply is not at its end."""
        ...

    @property
    def is_complete(self) -> bool:
        """Say whether this round's reply has been heard to its end."""
        ...

    def filter_event(self, raw: bytes) -> bytes:
        """Take one whole event and return what the client gets of it."""
        ...

    def filter_reply(self, answer: Json) -> Json:
        """Take a whole reply and return what the client gets, if this was the last round."""
        ...

    def start_next_round(self, results: Sequence[str]) -> list[Json]:
        """Return the elements that answer this round's calls, and begin the next round."""
        ...

    def finish_stream(self) -> bytes:
        """Return what ends a stream whose model would call for ever."""
        ...

    def list_visible_elements(self) -> list[Json]:
        """Return the elements that the client will send back, up to the one where what is hidden belongs."""
        ...

    def build_hidden_record(self, results: Sequence[str]) -> Json | None:
        """Return what has to be woven in there; `results` are those of the last round's calls."""
        ...


class ProtocolAdapter(Protocol):
    """A protocol's adapter. It reads parsed bodies and never changes them."""

    @property
    def name(self) -> str:
        """Return the protocol's name in the ledger."""
        ...

    @property
    def is_anthropic(self) -> bool:
        """Say whether requests go to the Anthropic-shaped upstream rather than to the OpenAI-shaped one."""
        ...

    def read_conversation(self, body: Json) -> Conversation | None:
        """Read a request body; None when it is not of the expected shape, and then it is forwarded as it came."""
        ...

    @property
    def elements_key(self) -> str:
        """Return the name of the list that a conversation is: `messages` or `input`."""
        ...

    def build_expand_tool(self, body: Json) -> Json | None:
        """Return the tool `clara_expand` as this request would offer it; None where it cannot be offered."""
        ...

    def create_reply_filter(self) -> ReplyFilter:
        """Return what reads the replies to a request that offers the tool."""
        ...

    def fingerprint_element(self, element: Json) -> bytes | None:
        """Return what tells an element of a conversation from others; None for one that may come and go."""
        ...

    def reinsert_hidden(
        self, body: Json, index: int, hidden: Json
    ) -> tuple[dict[Path, StringEdit], dict[Path, ArrayEdit]]:
        """Return the changes that put what was hidden to the element of this index."""
        ...

    def append_elements(self, body: bytes, elements: Sequence[bytes]) -> bytes:
        """Return a body with more elements, JSON texts, at the end of its conversation."""
        ...

    @property
    def error_event_name(self) -> str:
        """Return the name of an error's event, if events have names."""
        ...

    def encode_error(self, error: ApiError) -> bytes:
        """Write an error as the body of a response."""
        ...

    def encode_error_event(self, error: ApiError) -> bytes:
        """Write an error as the last event of a stream that has begun."""
        ...
