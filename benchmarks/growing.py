"""Measure growing conversations: an agent's turns, each with the whole conversation so far and one new tool output.

The conversation ends at some 200 KB after 30 turns. Its outputs are logs, listings, test runs and JSON, which proxies
compress. A cold conversation is new to the target; a warm one is sent once more from its first turn.
"""

import http.client
import json
import random
import statistics
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from .load import MODEL
from .servers import Server, read_cpu_seconds

TURNS = 30
OUTPUT_CHARACTERS = 6_500
_TOOLS = [{"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}]
_COMMANDS = ("tail -n 90 service.log", "ls -l build", "pytest -q", "curl -s localhost/orders")
Message = dict[str, object]


class GrowingTimes(NamedTuple):
    """Milliseconds: all turns of a conversation (median), a turn (p50, p99), and processor time of a conversation."""

    sum_ms: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    failed: int

    def __str__(self) -> str:
        """Return the figures as one row of a table."""
        failed = f"  FAILED {self.failed}" if self.failed else ""
        turn = f"turn p50 {self.p50_ms:7.2f}  p99 {self.p99_ms:7.2f} ms"
        return f"{TURNS} turns {self.sum_ms:8.1f} ms  {turn}  cpu {self.cpu_ms:8.1f} ms{failed}"


def build_turns(seed: int) -> list[bytes]:
    """Return the request bodies of one conversation, the same for the same seed."""
    rng = random.Random(seed)
    messages: list[Message] = [
        {"role": "system", "content": "You are a careful engineer."},
        {"role": "user", "content": f"Find out why order {rng.randrange(10**9)} was lost, and say what to do."},
    ]
    bodies: list[bytes] = []
    for turn in range(TURNS):
        function = {"name": "shell", "arguments": json.dumps({"command": _COMMANDS[turn % len(_COMMANDS)]})}
        call = {"id": f"call_{turn}", "type": "function", "function": function}
        step: list[Message] = [
            {"role": "assistant", "content": f"Step {turn}: I look at the next output.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"call_{turn}", "content": _build_output(rng, turn)},
        ]
        messages += step
        body = {"model": MODEL, "messages": messages, "tools": _TOOLS}
        bodies.append(json.dumps(body, separators=(",", ":")).encode())  # compact, as the SDKs write it
    return bodies


def _build_output(rng: random.Random, turn: int) -> str:
    lines: list[str] = []
    while sum(map(len, lines)) < OUTPUT_CHARACTERS:
        number = rng.randrange(10**6)
        lines.append(
            (
                f"2026-11-29T10:{number % 60:02d}:{turn:02d}Z INFO worker-{number % 7} handled order {number}",
                f"-rw-r--r-- 1 build build {number:8d} Nov 29 10:{number % 60:02d} module_{number}.o",
                f"tests/test_orders.py::test_order_{number} PASSED",
                json.dumps({"order": number, "state": "shipped" if number % 9 else "lost", "worker": number % 7}),
            )[turn % len(_COMMANDS)]
        )
    return "\n".join(lines)


def measure_conversations(server: Server, conversations: int, seed: int) -> dict[str, GrowingTimes]:
    """Send conversations one after another, each cold and then warm, on one connection."""
    times: dict[str, list[list[float]]] = {"cold": [], "warm": []}
    cpu, failed = {"cold": 0.0, "warm": 0.0}, {"cold": 0, "warm": 0}
    for number in range(conversations):
        bodies = build_turns(seed + number)
        for state in ("cold", "warm"):
            before = read_cpu_seconds(server)
            durations = _send_turns(server.url, bodies)
            cpu[state] += read_cpu_seconds(server) - before
            failed[state] += len(bodies) - len(durations)
            times[state].append(durations)
    return {
        state: _summarize(conversation_times, 1e3 * cpu[state] / conversations, failed[state])
        for state, conversation_times in times.items()
    }


def _summarize(conversation_times: list[list[float]], cpu_ms: float, failed: int) -> GrowingTimes:
    turns = sorted(duration for durations in conversation_times for duration in durations)
    if len(turns) < 2:
        return GrowingTimes(float("nan"), float("nan"), float("nan"), cpu_ms, failed)
    total = statistics.median(map(sum, conversation_times))
    return GrowingTimes(total, statistics.median(turns), statistics.quantiles(turns, n=100)[98], cpu_ms, failed)


def _send_turns(url: str, bodies: list[bytes]) -> list[float]:
    """Send the turns in order. Return the milliseconds of each answer with status 200."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), int(address.port or 80), timeout=60)
    headers = {"content-type": "application/json", "authorization": "Bearer sk-bench"}
    durations: list[float] = []
    for body in bodies:
        start = time.perf_counter()
        connection.request("POST", address.path, body, headers)
        response = connection.getresponse()
        response.read()
        if response.status == 200:
            durations.append(1e3 * (time.perf_counter() - start))
    connection.close()
    return durations
