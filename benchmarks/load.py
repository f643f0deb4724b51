"""Build the request bodies of the load benchmarks; `wrk.py` sends them.

The bodies are deterministic and contain nothing to compress: random words in messages of about 600 characters. Each
request replaces `NONCE` in the last message by a new number, so no target can answer from a cache of whole requests.
Earlier messages repeat, as in a real conversation.
"""

import json
import random
from pathlib import Path
from typing import NamedTuple

BENCH = Path(__file__).resolve().parent.parent / ".bench"
NONCE = "@@@@@@@@"
MODEL = "double"
SMALL, LARGE = "1 KB", "200 KB"
_ALPHABET = "ba ce di fo gu ha je ki lo mu na pe qui ro su ta ve wi xo yu za bre cli dro fla gri sto"
_SYLLABLES = _ALPHABET.split()
_ROUND_COUNT = 77

Message = dict[str, object]


class Load(NamedTuple):
    """The load of one table: the body's size, plain or streamed, and the number of connections."""

    size: str
    streamed: bool
    connections: int

    def __str__(self) -> str:
        """Return the table's heading."""
        return f"{self.size}, {'streamed' if self.streamed else 'plain'}, connections: {self.connections}"


def _make_prose(rng: random.Random, length: int) -> str:
    words: list[str] = []
    while length > 0:
        words.append("".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))))
        length -= len(words[-1]) + 1
    return " ".join(words)


def _make_round(rng: random.Random, index: int) -> list[Message]:
    call = {"id": f"call_{index}", "type": "function", "function": {"name": "look", "arguments": '{"path": "a.py"}'}}
    return [
        {"role": "user", "content": _make_prose(rng, 600)},
        {"role": "assistant", "content": _make_prose(rng, 500), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": f"call_{index}", "content": "done"},  # too short to be pruned
        {"role": "assistant", "content": _make_prose(rng, 1200)},
    ]


def build_chat(size: str, *, streamed: bool) -> bytes:
    """Return a chat completion request of about 1 KB, or of about 200 KB in some 300 messages."""
    rng = random.Random(7)
    messages: list[Message] = [{"role": "system", "content": "You are a careful assistant."}]
    if size == LARGE:
        messages += [message for index in range(_ROUND_COUNT) for message in _make_round(rng, index)]
    messages.append({"role": "user", "content": f"{_make_prose(rng, 800)} {NONCE}"})
    return json.dumps({"model": MODEL, "messages": messages, "stream": streamed}).encode()
