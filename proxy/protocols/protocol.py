"""What a protocol has to say of itself, so that one request path serves them all: its adapter, and its shape of errors.

A protocol is one file with one `Wire`: `chat`, `responses`, `messages`. Nothing here knows any of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...compression.transcript import Turn
from .api_errors import ApiError
from .expand_call import Call
from .json_edit import Edit, Path, Weave
from .json_types import Json


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request body, read: `length` messages or items that cost `overhead` tokens beyond their texts.

    `texts` lists all that is counted, `turns` what can be shortened; each reads the body when it is called. `agentic`
    says that tools are on offer.
    """

    length: int
    overhead: int
    agentic: bool
    texts: Callable[[], list[str]]
    turns: Callable[[], list[Turn]]


class Listener(Protocol):
    """Reads the replies to one request, round by round, and takes out of them what only the proxy asked for."""

    @property
    def usage(self) -> Json | None:
        """Return what all rounds have used together, as far as they have told."""
        ...

    @property
    def calls(self) -> list[Call]:
        """List the calls of ours in this round."""
        ...

    @property
    def goes_on(self) -> bool:
        """Say whether the model waits for us alone: then the reply is not at its end."""
        ...

    @property
    def ended(self) -> bool:
        """Say whether this round's reply has been heard to its end."""
        ...

    def event(self, raw: bytes) -> bytes:
        """Take one whole event and return what the client gets of it."""
        ...

    def whole(self, answer: Json) -> Json:
        """Take a whole reply and return what the client gets, if this was the last round."""
        ...

    def next_round(self, results: Sequence[str]) -> list[Json]:
        """Return the elements that answer this round's calls, and begin the next round."""
        ...

    def cut_short(self) -> bytes:
        """Return what ends a stream whose model would call for ever."""
        ...

    def visible(self) -> list[Json]:
        """Return the elements that the client will send back, up to the one where what is hidden belongs."""
        ...

    def hidden(self, results: Sequence[str]) -> Json | None:
        """Return what has to be woven in there; `results` are those of the last round's calls."""
        ...


class Wire(Protocol):
    """A protocol's adapter. It reads parsed bodies and never changes them."""

    @property
    def name(self) -> str:
        """Return the protocol's name in the ledger."""
        ...

    @property
    def anthropic(self) -> bool:
        """Say whether requests go to the Anthropic-shaped upstream rather than to the OpenAI-shaped one."""
        ...

    def read(self, body: Json) -> Conversation | None:
        """Read a request body; None when it is not of the expected shape, and then it is forwarded as it came."""
        ...

    @property
    def elements(self) -> str:
        """Return the name of the list that a conversation is: `messages` or `input`."""
        ...

    def offer(self, body: Json) -> Json | None:
        """Return the tool `clara_expand` as this request would offer it; None where it cannot be offered."""
        ...

    def listen(self) -> Listener:
        """Return what reads the replies to a request that offers the tool."""
        ...

    def mark(self, element: Json) -> bytes | None:
        """Return what tells an element of a conversation from others; None for one that may come and go."""
        ...

    def woven(self, body: Json, index: int, hidden: Json) -> tuple[dict[Path, Edit], dict[Path, Weave]]:
        """Return the changes that put what was hidden to the element of this index."""
        ...

    def extended(self, body: bytes, elements: Sequence[bytes]) -> bytes:
        """Return a body with more elements, JSON texts, at the end of its conversation."""
        ...

    @property
    def error_name(self) -> str:
        """Return the name of an error's event, if events have names."""
        ...

    def error(self, error: ApiError) -> bytes:
        """Write an error as the body of a response."""
        ...

    def error_event(self, error: ApiError) -> bytes:
        """Write an error as the last event of a stream that has begun."""
        ...
