"""Attacks on the local CLaRa model, by clara-nano: long questions, long memories, and clients that leave."""

import sqlite3
import time
from contextlib import closing
from importlib.util import find_spec
from typing import Any

import orjson

from . import client
from .target import Target, run_target
from .upstream import run_upstream
from .verdict import Verdict

MEGABYTE = 2**20
SHORT: dict[str, Any] = {
    "memories": ["The port of the build server is 4711."],
    "query": "Which port?",
    "max_new_tokens": 4,
}


def run(quick: bool) -> list[Verdict]:
    """Run the attacks; there are none without the extra `[clara]`."""
    if find_spec("torch") is None:
        return []
    size = MEGABYTE if quick else 5 * MEGABYTE
    with (
        run_upstream() as upstream,
        run_target(upstream.url, model="clara-nano", clara_timeout=1 if quick else 3) as target,
    ):
        client.send(target, SHORT, "/compress")
        target.read_holds()
        return [_attack_with_length(target, size), _attack_by_leaving(target, 8 if quick else 100)]


def _attack_with_length(target: Target, size: int) -> Verdict:
    """Send a question and a memory of several megabytes. Each is refused or late, and others are served meanwhile."""
    text = ("the quick brown fox jumps over the lazy dog " * (size // 44 + 1))[:size]
    message = {"role": "user", "content": f"<document>{text}</document> why?"}
    shapes: list[tuple[str, dict[str, Any]]] = [
        ("/compress", SHORT | {"query": text}),
        ("/compress", SHORT | {"memories": [text]}),
        ("/compress", SHORT | {"memories": ["a" * size]}),
        ("/embed", {"texts": [text]}),
        (client.CHAT, {"model": "clara", "messages": [message]}),
    ]
    survived, details = 0, list[str]()
    for path, body in shapes:
        start_time = time.monotonic()
        status = client.send(target, body, path).status
        seconds = time.monotonic() - start_time
        is_free, holds = client.describe_holds(target)
        after = client.send(target, SHORT, "/compress").status
        if status in (400, 503) and seconds < 9 and after == 200 and is_free:
            survived += 1
        else:
            details.append(f"{path}: {status} after {seconds:.1f} s, {holds}, then {after}")
    return Verdict(f"{size // MEGABYTE} MB for CLaRa", len(shapes), survived, "; ".join(details) or "loop free")


def _attack_by_leaving(target: Target, count: int) -> Verdict:
    """Send requests and disconnect. Their rows must not say that they were served."""
    text = ("the quick brown fox jumps over the lazy dog " * 3000)[:130_000]
    plain = orjson.dumps(SHORT | {"memories": [text]})
    head = b"POST /compress HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-clara-session: left\r\n"
    for _ in range(count):
        with client.connect(target) as connection:
            connection.sendall(head + b"content-length: %d\r\n\r\n" % len(plain) + plain)
            time.sleep(0.02)
    start_time = time.monotonic()
    status = client.send(target, SHORT, "/compress").status
    seconds = time.monotonic() - start_time
    time.sleep(1)
    with closing(sqlite3.connect(target.folder / "data" / "ledger.sqlite3")) as database:
        rows = database.execute("SELECT outcome FROM ledger WHERE session = 'left'").fetchall()
    cancelled = sum(outcome == "cancelled" for (outcome,) in rows)
    survived = cancelled if status == 200 and seconds < 9 else 0
    return Verdict("clients that leave CLaRa", count, survived, f"the next one waits {1000 * seconds:.0f} ms")
