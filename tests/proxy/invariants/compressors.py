"""Compressors that fail in different ways, and a chat with one passage for them."""

import time

from clara_proxy.compression.compressor import CompressedPassage, Gap, Task
from clara_proxy.tests.conversations import Json

CANARY = "canary-4d1f-in-the-coal-mine"  # a text that must not appear in logs, rows or headers


def fail(_: Task) -> CompressedPassage | None:
    """Raise an error with content in its message."""
    raise RuntimeError(f"out of order: {CANARY}")


def exceed_deadline(_: Task) -> CompressedPassage | None:
    """Return a result after 50 ms."""
    time.sleep(0.05)
    return CompressedPassage(("never seen",), 1, "lines")


def refuse(_: Task) -> CompressedPassage | None:
    """Return no result."""
    return None


def grow(task: Task) -> CompressedPassage | None:
    """Return a result that is longer than the passage."""
    return CompressedPassage((task.text, Gap(1, "lines"), task.text), 2, "lines")


PROSE = "The mill of the old town was mended by patient people. " * 60


def long_chat(text: str = "") -> Json:
    """Return a chat of an agent with one long tool output, by default a log."""
    lines = "\n".join(f"2024-05-01 INFO request {number} took {number * 7 % 90} ms" for number in range(400))
    call = {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": '{"command":"make"}'}}
    return {
        "model": "gpt-4o",
        "messages": [
            {"role": "user", "content": "Which request was slow?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": text or lines},
        ],
    }
