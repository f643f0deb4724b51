"""One interface to the three protocols, so that one test of the hidden tool runs on each of them.

An `Api` builds requests, scripts the model of the upstream, and sends requests through the proxy with the real client.
"""

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from clara_proxy.proxy.protocols.expand_call import TOOL_NAME
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.protocols.expand_data import ORIGINAL
from clara_proxy.tests.running import CLIENT_KEY, Proxy

Json = dict[str, Any]
Client = Any  # the overloads of the clients reject arguments that come from a table


class Call(NamedTuple):
    """A tool call of the model."""

    name: str
    arguments: Json | str
    id: str


Output = list[str | Call]  # a model's reply: texts and calls, in order
Model = Callable[[Json], Output]


class Reply(NamedTuple):
    """A reply as the client reads it."""

    text: str
    calls: list[Call]
    finish: str  # "stop", "tool_calls" or "length"
    turn: list[Json]  # the reply as a part of the next request


class Api(ABC):
    """The tests' interface to one protocol; every instance has an API key of its own, so that tests share no state."""

    name: ClassVar[str]
    path: ClassVar[str]
    error_type: ClassVar[type[Exception]]
    round_input_tokens: ClassVar[int]  # input tokens that the upstream bills for a request
    tools: ClassVar[list[Json]]
    own_expand_tool: ClassVar[Json]  # a tool of the client's with the name of the hidden tool

    def __init__(self, proxy: Proxy, upstream: FaultyUpstream, client: Client) -> None:
        self.proxy, self.upstream = proxy, upstream
        self.key = f"{CLIENT_KEY}-{secrets.token_hex(8)}"
        self.client = client.with_options(api_key=self.key)

    @classmethod
    @abstractmethod
    def create_client(cls, url: str) -> Client:
        """Create the real client of this protocol for a proxy at `url`."""

    @abstractmethod
    def build_request(self, original: str = ORIGINAL, **fields: Any) -> Json:
        """Return a request with a tool output that can be compressed."""

    @abstractmethod
    def build_short_request(self, **fields: Any) -> Json:
        """Return a request with tools in which every text is short."""

    @abstractmethod
    def run_model(self, model: Model, *, finish: str = "") -> None:
        """Let the upstream reply with the output of this model; with a `finish`, every reply ends that way."""

    @abstractmethod
    def ask(self, request: Json, *, stream: bool, label: str = "", retries: int = 0) -> Reply:
        """Send a request through the proxy and check the framing of a stream; a `label` names its ledger row."""

    @abstractmethod
    def items(self, request: Json) -> list[Json]:
        """Return the messages or items of a request."""

    @abstractmethod
    def build_results(self, results: Mapping[str, str]) -> list[Json]:
        """Return the messages or items that hold the results of calls, by call id."""

    @abstractmethod
    def find_calls(self, request: Json) -> list[Call]:
        """Return the tool calls in a request."""

    @abstractmethod
    def find_results(self, request: Json) -> dict[str, str]:
        """Return the tool results in a request, by call id."""

    @abstractmethod
    def read_text(self, item: Json) -> str:
        """Return the text of an assistant message."""

    @abstractmethod
    def first_event(self) -> bytes:
        """Return the first event of a stream."""

    @abstractmethod
    def find_marker_ids(self, request: Json) -> list[str]:
        """Return the ids in the markers of a request."""

    def find_expand_results(self, request: Json) -> list[str]:
        """Return the results of the hidden tool in a request, in order."""
        expand_ids = {call.id for call in self.find_calls(request) if call.name == TOOL_NAME}
        return [content for call_id, content in self.find_results(request).items() if call_id in expand_ids]

    def expand(self, request: Json, call_id: str = "call_expand", **arguments: str) -> Call:
        """Return a call of the hidden tool for the first marker of a request."""
        return Call(TOOL_NAME, {"id": self.find_marker_ids(request)[0], **arguments}, call_id)

    def expand_once(self, *before: str, then: Output) -> Model:
        """Return a model that writes `before` and fetches the original back, and then replies with `then`."""

        def model(request: Json) -> Output:
            if self.find_expand_results(request) or not self.find_marker_ids(request):
                return then
            return [*before, self.expand(request)]

        return model

    def add_turn(
        self, request: Json, reply: Reply, user_text: str = "", results: Mapping[str, str] | None = None
    ) -> None:
        """Add a reply to a request, with the results of its calls and the next text of the user."""
        self.items(request).extend([*reply.turn, *self.build_results(results or {})])
        if user_text:
            self.items(request).append({"role": "user", "content": user_text})

    def tool_name(self, tool: Json) -> str:
        """Return the name of a tool definition."""
        return str(tool.get("name") or tool["function"]["name"])
