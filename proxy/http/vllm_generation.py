"""One answer that vLLM generates, across the requests that it takes.

A request that fails on the way continues on another server after the tokens that have arrived. If the answer is the one
that the checkpoint bans, it is generated again from the second best first token, as this engine does.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import orjson

if TYPE_CHECKING:
    from ...compression.clara.decoding import FinishReason
    from ...compression.clara.embedded_prompt import EmbeddedPrompt
    from ...compression.clara.replies import Reply

TOKEN_PREFIX = "token_id:"  # noqa: S105 - vLLM's spelling of ids in log probabilities


class InvalidReplyError(ValueError):
    """A server's reply is not one of vLLM's."""


class Generation:
    """The tokens of an answer so far, without the end token; `finish` is the reason that it ended, or None.

    `on_text` gets the text in pieces. At most `limit` tokens are generated.
    """

    def __init__(self, prompt: "EmbeddedPrompt", limit: int, on_text: Callable[[str], None] | None = None) -> None:
        self.prompt, self.tokens = prompt, list[int]()
        self.finish: FinishReason | None = None
        self._limit, self._on_text = limit, on_text
        self._stream = None if on_text is None else prompt.text_stream()
        self._banned = prompt.banned_answer
        self._eos_ids = frozenset(prompt.eos_ids)
        self._runner_up: int | None = None
        if not self.is_decoded:
            self.tokens = list(prompt.prompt.known_answer)
            self._set_finish("stop")

    @property
    def is_streamed(self) -> bool:
        """Return True if the text is wanted in pieces."""
        return self._on_text is not None

    @property
    def is_decoded(self) -> bool:
        """Return True unless the answer is an abstention: it takes no decoding."""
        return self.prompt.prompt.is_decoded

    def build_reply(self) -> "Reply":
        """Return the reply of the finished answer."""
        return self.prompt.build_reply(self.tokens, self.finish or "length")

    def build_body(self, adapter: str, max_positions: int | None) -> bytes | None:
        """Return the JSON of the next request; None without room for another token, at the end of the answer.

        It encodes megabytes, so call it in a thread. Raises `ModelError` if the prompt is too large.
        """
        # The whole banned answer is needed to recognise it, even if fewer tokens are wanted.
        room = max(self._limit, len(self._banned), 1) - len(self.tokens)
        if max_positions is not None:
            room = min(room, max_positions - self.prompt.positions - len(self.tokens))
        if room < 1:
            return None
        body: dict[str, Any] = {
            "model": adapter,
            "prompt_embeds": self.prompt.encode(self.tokens),
            "max_tokens": room,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(self.prompt.eos_ids),
            "return_token_ids": True,
            "stream": self.is_streamed,
        }
        if self._banned and not self.tokens:
            body |= {"logprobs": 2, "return_tokens_as_token_ids": True}
        return orjson.dumps(body)

    def add_choice(self, choice: Mapping[str, Any]) -> bool:
        """Add the tokens of a reply or of one event; return True if another request must go on from here.

        Raises `InvalidReplyError` if they cannot be read.
        """
        ids: Any = choice.get("token_ids")
        finish = choice.get("finish_reason")
        if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):  # pyright: ignore[reportUnknownVariableType]
            raise InvalidReplyError("it returns no token ids: vLLM 0.11 or later is needed")
        if self._banned and not self.tokens and ids:
            self._runner_up = read_runner_up(choice)
        for token in cast("list[int]", ids):
            if token in self._eos_ids:
                finish = "stop"
                break
            self.tokens.append(token)
        if self._banned and tuple(self.tokens[: len(self._banned)]) == self._banned:
            return self._restart()
        if finish in ("stop", "length"):
            self._set_finish(finish)
        elif finish is not None:
            raise InvalidReplyError(f"it ended with {finish}")
        else:
            self._send_text()
        return False

    def end_without_room(self) -> None:
        """End the answer because the server reads no further position."""
        self._set_finish("length")

    def _restart(self) -> bool:
        if self._runner_up is None:
            raise InvalidReplyError("it returns no log probabilities")
        self._banned, self.tokens = (), [self._runner_up]
        if self._runner_up in self._eos_ids:
            self.tokens = []
            self._set_finish("stop")
        elif self._limit <= 1:
            self._set_finish("length")
        else:
            self._send_text()
        return self.finish is None

    def _set_finish(self, reason: "FinishReason") -> None:
        # A full answer counts as cut, even if the next id would have ended it; an abstention is known to be whole.
        is_full = len(self.tokens) == self._limit > 0 and self.is_decoded
        self.finish = "length" if is_full or len(self.tokens) > self._limit else reason
        del self.tokens[self._limit :]
        self._send_text()

    def _send_text(self) -> None:
        if self._on_text is None or self._stream is None:
            return
        if self.finish is None and tuple(self.tokens) == self._banned[: len(self.tokens)]:
            return  # it may be the banned answer
        piece = self._stream.feed(self.tokens[: self._limit], last=self.finish is not None)
        if piece:
            self._on_text(piece)


def read_log_probabilities(choice: Mapping[str, Any]) -> dict[int, float]:
    """Return the log probabilities of the first token by id, best first. Raises `InvalidReplyError`."""
    try:
        first: dict[str, float] = choice["logprobs"]["top_logprobs"][0]
        pairs = [(int(name.removeprefix(TOKEN_PREFIX)), float(value)) for name, value in first.items()]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        raise InvalidReplyError("it returns no log probabilities by token id") from None
    return dict(sorted(pairs, key=lambda pair: -pair[1]))


def read_runner_up(choice: Mapping[str, Any]) -> int | None:
    """Return the second best first token of a choice."""
    ids: Sequence[int] = list(read_log_probabilities(choice))
    return ids[1] if len(ids) > 1 else None
