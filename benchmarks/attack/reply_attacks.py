"""Attacks by an upstream: answers without end, streams of tiny or huge events, odd statuses, calls that amplify."""

import re
import threading
from collections.abc import Iterable
from typing import Any

import orjson

from . import client, upstream
from .target import Target, get_shared_target
from .upstream import Upstream
from .verdict import Verdict

MEGABYTE = 2**20
STREAMED = client.SMALL_CHAT | {"stream": True}
WITH_TOOLS = STREAMED | {"tools": [client.TOOL]}
LOG_TEXT = "\n".join(f"2024-01-01 10:00:{n % 60:02d} INFO request {n} served in {n * 7 % 13} ms" for n in range(400))


def run(quick: bool) -> list[Verdict]:
    """Run the attacks."""
    target, double = get_shared_target()
    client.is_serving(target)
    return [
        _attack_with_long_answers(target, double, 40 if quick else 1024),
        _attack_with_held_answers(target, double),
        _attack_with_streams(target, double, 2**18 if quick else 20 * MEGABYTE),
        _attack_with_statuses(target, double),
        _attack_with_calls(target, double),
    ]


def _attack_with_long_answers(target: Target, double: Upstream, megabytes: int) -> Verdict:
    """Answer with many megabytes, as JSON and as a compressed body, with and without tools."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
    start = b'{"choices":[{"message":{"content":"'

    def answer(_: bytes) -> Iterable[bytes]:
        yield head + start
        for _number in range(megabytes):
            yield b"a" * MEGABYTE
        raise ValueError("the connection ends")

    double.answer, double.keeps_bodies = answer, False
    target.read_holds()
    before, most = target.read_rss_mb(), 0.0
    survived = 0
    for body in (client.SMALL_CHAT, client.SMALL_CHAT | {"tools": [client.TOOL]}):
        thread = threading.Thread(target=client.send, args=(target, body))
        thread.start()
        while thread.is_alive():
            most = max(most, target.read_rss_mb())
            thread.join(0.05)
        survived += most - before < 300
    double.reset()
    is_free, holds = client.describe_holds(target)
    survived = survived if is_free and client.is_serving(target) else 0
    return Verdict(f"answers of {megabytes} MB", 2, survived, f"{holds}, RSS +{most - before:.0f} MB")


def _attack_with_held_answers(target: Target, double: Upstream) -> Verdict:
    """Answer with nearly as much as the proxy reads: JSON with the name of a hidden tool, broken JSON, an error."""
    start = b'{"choices":[{"index":0,"finish_reason":"stop","message":{"role":"assistant","content":"clara_expand '
    answers = {"valid": ("200 OK", start, b'"}}]}'), "broken": ("200 OK", start, b""), "error": ("500 Odd", start, b"")}
    survived, broken = 0, list[str]()
    for name, (status, before, after) in answers.items():
        response = upstream.format_response(before + b"a" * (30 * MEGABYTE) + after, status)

        def answer(_: bytes, response: bytes = response) -> Iterable[bytes]:
            return [response]

        double.answer = answer
        for body in (client.SMALL_CHAT, WITH_TOOLS):
            target.read_holds()
            answered = client.send(target, body)
            is_free, holds = client.describe_holds(target)
            survived += is_free and answered.status in (200, 500, 502)
            broken += [] if is_free else [f"{name}: {holds}"]
    double.reset()
    survived = survived if client.is_serving(target) else 0
    return Verdict("held answers of 30 MB", 2 * len(answers), survived, "; ".join(broken) or "loop free")


def _attack_with_streams(target: Target, double: Upstream, size: int) -> Verdict:
    """Stream line ends, comments, tiny events, and one event of many megabytes."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    pieces = {
        "carriage returns": b"\r" * size,
        "line feeds": b"\n" * size,
        "comments": b":\r\r" * (size // 3 // 4),
        "empty events": b"data:\n\n" * (size // 7 // 4),
        "errors that are no events": b'data:"error"\r\r' * (size // 14 // 4),
        "events": event * (size // len(event) // 4),
        "one event": b'data: {"usage":"' + b"a" * size + b'"}\n\n',
        "one line": b"data: " + b"a" * size,
    }
    survived, broken = 0, list[str]()
    for name, content in pieces.items():
        chunks = [content[start : start + 65536] for start in range(0, len(content), 65536)]

        def answer(_: bytes, chunks: list[bytes] = chunks) -> Iterable[bytes]:
            return upstream.format_stream([event, *chunks])

        double.answer = answer
        target.read_holds()
        answers = [client.send(target, body) for body in (STREAMED, WITH_TOOLS)]
        is_free, holds = client.describe_holds(target)
        if is_free and all(a.status == 200 and a.body for a in answers):
            survived += 1
        else:
            broken.append(f"{name}: {holds} {[a.status for a in answers]}")
    double.reset()
    survived = survived if client.is_serving(target) else 0
    return Verdict(f"streams of {size // 1024:,} KB", len(pieces), survived, "; ".join(broken) or "loop free")


def _attack_with_statuses(target: Target, double: Upstream) -> Verdict:
    """Answer with statuses that switch protocols or that HTTP does not define."""
    statuses = ("101 Switching Protocols", "199 Odd", "600 Odd", "999 Odd", "0 Odd", "-1 Odd", "204 No Content")
    survived = 0
    for status in statuses:
        response = f"HTTP/1.1 {status}\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n".encode()

        def answer(_: bytes, response: bytes = response) -> Iterable[bytes]:
            yield response
            raise ValueError("the connection ends")

        double.answer = answer
        for path in (client.CHAT, "/v1/embeddings"):
            answered = client.send(target, client.SMALL_CHAT, path, connection="close")
            survived += answered.status in (204, 502)
    double.reset()
    survived = survived if client.is_serving(target) else 0
    return Verdict("odd statuses", 2 * len(statuses), survived)


def _attack_with_calls(target: Target, double: Upstream) -> Verdict:
    """Call `clara_expand` 40 times a round with one id. The text must come back once."""
    arrived: list[bytes] = []

    def answer(body: bytes) -> Iterable[bytes]:
        arrived.append(body)
        names = re.findall(rb"clara_expand ([0-9a-f]{16})", body)
        if not names:
            return [upstream.format_response(upstream.COMPLETION)]
        call = {"name": "clara_expand", "arguments": orjson.dumps({"id": names[0].decode()}).decode()}
        calls = [{"id": f"x{n}", "type": "function", "function": call} for n in range(40)]
        message = {"role": "assistant", "content": None, "tool_calls": calls}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        reply = {"id": "c", "object": "chat.completion", "model": "gpt-4o", "choices": [choice]}
        return [upstream.format_response(orjson.dumps(reply))]

    double.answer = answer
    function = {"name": "logs", "arguments": "{}"}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "why did it fail?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "c1", "content": LOG_TEXT},
    ]
    body = orjson.dumps({"model": "gpt-4o", "messages": messages, "tools": [client.TOOL]})
    client.send(target, body)
    double.reset()
    largest = max(map(len, arrived), default=0)
    calls = 40 * max(0, len(arrived) - 1)
    survived = calls if 1 < len(arrived) <= 7 and largest < len(body) + 250 * calls + len(LOG_TEXT) else 0
    detail = f"{len(arrived)} rounds, {len(body)} bytes became {largest} at most"
    return Verdict("calls of clara_expand with one id", max(1, calls), survived, detail)
