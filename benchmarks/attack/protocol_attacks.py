"""Attacks that have always held, kept so that they go on to hold: smuggling, tenancy, and slow regular expressions."""

import random
import re
import time
from typing import Any

import orjson

from . import client
from .reply_attacks import LOG_TEXT
from .target import Target, get_shared_target
from .upstream import Upstream
from .verdict import Verdict

BODY = orjson.dumps(client.SMALL_CHAT)
INNER = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"


def run(quick: bool) -> list[Verdict]:
    """Run the attacks."""
    target, upstream = get_shared_target()
    client.is_serving(target)
    return [
        _smuggle(target, upstream),
        _traverse(target, upstream),
        _fetch_of_others(target, upstream, 20 if quick else 500),
        _slow_down(target, 30_000 if quick else 400_000),
    ]


def _smuggle(target: Target, upstream: Upstream) -> Verdict:
    """Send requests whose end two servers could see at different places. The upstream must never see the inner one."""
    length, chunked = b"content-length: %d\r\n", b"transfer-encoding: chunked\r\n"
    framings = [
        length % len(BODY) + chunked,
        chunked + length % len(BODY),
        length % len(BODY) + length % (len(BODY) + len(INNER)),
        b"content-length: +%d\r\n" % len(BODY),
        b"content-length: %d, %d\r\n" % (len(BODY), len(BODY) + len(INNER)),
        b"content-length : %d\r\n" % len(BODY),
        b"content-length: 0x%x\r\n" % len(BODY),
        b"transfer-encoding: xchunked\r\n" + length % len(BODY),
        b"transfer-encoding : chunked\r\n" + length % len(BODY),
        b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        b"transfer-encoding:\x0bchunked\r\n" + length % len(BODY),
        b"transfer-encoding: chunked, identity\r\n" + length % len(BODY),
        b"x: y\ntransfer-encoding: chunked\r\n" + length % len(BODY),
        b" content-length: 1\r\n" + length % len(BODY),
        b"content-length: %d\r\n\tfolded\r\n" % len(BODY),
    ]
    survived, shapes = 0, [(framing, version) for framing in framings for version in (b"1.1", b"1.0")]
    for framing, version in shapes:
        upstream.reset()
        head = b"POST /v1/chat/completions HTTP/%b\r\nhost: x\r\nconnection: close\r\n%b\r\n" % (version, framing)
        with client.connect(target, 5) as connection:
            try:
                connection.sendall(head + BODY + INNER)
                while connection.recv(65536):
                    pass
            except OSError:
                pass
        is_whole = all(body in (BODY, BODY + INNER) for body in upstream.bodies)
        survived += is_whole and not any(h.startswith(b"post /v1/embeddings") for h in upstream.heads)
    survived = survived if client.is_serving(target) else 0
    return Verdict("requests within requests", len(shapes), survived)


def _traverse(target: Target, upstream: Upstream) -> Verdict:
    """Ask for paths that lead out of the upstream's base URL, and for other hosts."""
    paths = [
        "/v1/../admin", "/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/..\\admin", "/v1/./x", "/v1/x/%2E%2E%5Cadmin",
        "//evil.example/v1/models", "http://evil.example/v1/models", "/v1@evil.example/", "/v1/retrieve/../../x",
    ]  # fmt: skip
    survived = 0
    for path in paths:
        upstream.reset()
        client.send(target, BODY, path)
        survived += all(re.match(rb"post /v1/(?!.*(?:\.\.|%2e))", head) for head in upstream.heads)
    return Verdict("paths that lead elsewhere", len(paths), survived)


def _fetch_of_others(target: Target, upstream: Upstream, count: int) -> Verdict:
    """Fetch the original of another client, with other keys and guessed names."""
    upstream.reset()
    message: dict[str, Any] = {"role": "tool", "tool_call_id": "c", "content": LOG_TEXT}
    client.send(target, client.SMALL_CHAT | {"messages": [message]}, x_clara_retrieve="url")
    name = re.findall(rb"/v1/retrieve/([0-9a-f]{16})", upstream.bodies[-1])[0].decode()
    is_owned = client.send(target, b"", f"/v1/retrieve/{name}", method="GET").status == 200
    rng, survived = random.Random(3), 0
    for number in range(count):
        guess = f"{rng.getrandbits(64):016x}" if number % 2 else name
        key = "Bearer sk-attack" if number % 2 else f"Bearer sk-{rng.getrandbits(64):x}"
        answer = client.send(target, b"", f"/v1/retrieve/{guess}", method="GET", authorization=key)
        survived += answer.status == 404 and b"INFO" not in answer.body
    return Verdict("originals of other clients", count, survived if is_owned else 0)


def _slow_down(target: Target, size: int) -> Verdict:
    """Send tool outputs that make careless regular expressions take quadratic or exponential time."""
    seeds = [
        "a", " ", "\n", "\t", "=", "-", "|", "{", "[", "(", "<", "<a ", "</", "&", "\\", '"', "'", "`", "```", "#", "*",
        "0", "1.", ":", "::", "/", "//", "a:", "a=b ", "<a><b>", "- ", "| a ", "+-", "@@ -1 +1 @@\n",
        "diff --git a/x b/x\n",
        "2024-01-01 ", "Traceback (most recent call last):\n", '  File "x", line 1\n', "\x1b[0m", "\u00e9", "clara:",
        "[clara: 9 lines left out]", "at x(y.js:1)\n", "E   assert ", "[ ", "a,", '"a",', "\r", "\r\n", "{}",
        "<!--", "]]>",
    ]  # fmt: skip
    slow, longest = list[str](), 0.0
    for seed in seeds:
        text = (seed * (size // len(seed) + 1))[:size] + "!"
        message = {"role": "tool", "tool_call_id": "c", "content": text}
        start_time = time.monotonic()
        target.read_holds()
        answer = client.send(target, client.SMALL_CHAT | {"messages": [message], "tools": [client.TOOL]})
        longest = max(longest, time.monotonic() - start_time)
        is_free, holds = client.describe_holds(target)
        if answer.status != 200 or not is_free:
            slow.append(f"{seed[:10]!r}: {holds}, {answer.status}")
    detail = "; ".join(slow) or f"longest request {1000 * longest:.0f} ms"
    survived = len(seeds) - len(slow) if client.is_serving(target) else 0
    return Verdict(f"repetitions of {size:,} characters", len(seeds), survived, detail)
