"""Attacks before authentication: heads without end, silent clients, and more connections than files."""

import time

from . import client
from .target import Target, run_target
from .upstream import run_upstream
from .verdict import Verdict

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n"


def run(quick: bool) -> list[Verdict]:
    """Run the attacks."""
    with run_upstream() as upstream:
        with run_target(upstream.url, client_timeout=1.0) as target:
            verdicts = [_attack_heads(target, 8 if quick else 64), _attack_with_silence(target, 60 if quick else 900)]
        with run_target(upstream.url, open_files=64, client_timeout=2.0) as target:
            return [*verdicts, _attack_descriptors(target)]


def _attack_heads(target: Target, megabytes: int) -> Verdict:
    """Send heads of many megabytes, in several shapes. Each must be cut off early, and take neither time nor memory."""
    limit = megabytes * 2**20
    shapes = [
        (HEAD + b"x: ", b"a" * 65536),
        (HEAD, b"a: b\r\n" * 10_000),
        (b"GET /", b"a" * 65536),
        (b"GET / HTTP/1.0\r\nx: ", b"a" * 65536),
        (b"GET / HTTP/1.0\r\n", b"a: b\r\n" * 10_000),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n0\r\n", b"trailer: value\r\n" * 4096),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n5;x=", b"a" * 65536),
    ]
    target.read_holds()
    before = target.read_rss_mb()
    survived = sum(client.send_until_closed(target, start, piece, limit) < limit for start, piece in shapes)
    is_free, holds = client.describe_holds(target)
    growth = target.read_rss_mb() - before
    if not is_free or growth > 50 or not client.is_serving(target):
        survived = 0
    return Verdict("heads without end", len(shapes), survived, f"{holds}, RSS +{growth:.0f} MB")


def _attack_with_silence(target: Target, count: int) -> Verdict:
    """Open connections that send nothing, half a head, or half a body. All must be closed within the timeout."""
    starts = (b"", HEAD, HEAD + b"content-length: 100\r\n\r\n{")
    before = target.count_descriptors()
    survived = 0
    for start in starts:
        with client.open_connections(target, count // len(starts), start) as connections:
            is_served = client.is_serving(target)
            deadline = time.monotonic() + 15
            while target.count_descriptors() > before + 5 and time.monotonic() < deadline:
                time.sleep(0.1)
            is_closed = target.count_descriptors() <= before + 5
            survived += len(connections) if is_served and is_closed else 0
    return Verdict("silent clients", count // len(starts) * len(starts), survived, "closed after 1 s of silence")


def _attack_descriptors(target: Target) -> Verdict:
    """Open more connections than the proxy has descriptors. It must say so, and serve again afterwards."""
    count = 80
    with client.open_connections(target, count):
        time.sleep(0.5)
        most = target.count_descriptors()
    time.sleep(0.5)
    is_logged = "CLARA_MAX_CONNECTIONS" in target.log
    metric = client.send(target, b"", "/metrics", method="GET").body
    is_counted = b'clara_refused_connections_total{reason="connections"}' in metric
    survived = count if is_logged and is_counted and most < 64 and client.is_serving(target) else 0
    return Verdict("more connections than files (ulimit -n 64)", count, survived, f"at most {most} descriptors")
