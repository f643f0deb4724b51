"""Start and end: the first requests at once, no answer before the stores are open, streams cut by a shutdown."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import orjson

from . import client, upstream
from .target import Target, run_target
from .upstream import Upstream, run_upstream
from .verdict import Verdict


def run(quick: bool) -> list[Verdict]:
    """Run the attacks."""
    with run_upstream() as double:
        with run_target(double.url, drain_seconds=0.5, deadline_ms=10_000) as target:
            verdicts = [_stampede(target, 8), _cut_streams(target, double, 6 if quick else 60)]
        return verdicts if quick else [*verdicts, _connect_early(double)]


def _stampede(target: Target, count: int) -> Verdict:
    """Send the first requests of a new process at once, of 10,000 tokens each. None of them may be late."""
    before = target.read_rss_mb()
    target.read_holds()
    bodies = [
        orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": f"{n} word " * 4000}]})
        for n in range(count)
    ]
    answers = client.send_all(target, bodies)
    growth = target.read_rss_mb() - before
    in_time = sum(a.status == 200 and "late" not in a.headers["x-clara-skipped"] for a in answers)
    return Verdict("the first requests at once", count, in_time if growth < 100 else 0, f"RSS +{growth:.0f} MB")


def _cut_streams(target: Target, double: Upstream, count: int) -> Verdict:
    """Stop the proxy while streams run. Each must end with an error event, and have its row."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"so far"}}]}\n\n'

    def answer(_: bytes) -> Iterable[bytes]:
        yield from list(upstream.format_stream([event]))[:-1]
        time.sleep(20)

    received: list[bytes] = []
    double.answer = answer
    body = client.SMALL_CHAT | {"stream": True}
    threads = [threading.Thread(target=_read_stream, args=(target, body, received)) for _ in range(count)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    target.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    target.process.wait(10)
    double.reset()
    survived = sum(b"so far" in stream and b'"code":"shutting_down"' in stream for stream in received)
    return Verdict("streams cut by a shutdown", count, survived, "each ends with an error event")


def _read_stream(target: Target, body: dict[str, object], received: list[bytes]) -> None:
    plain, stream = orjson.dumps(body), b""
    with client.connect(target) as connection:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(plain)
        connection.sendall(head + plain)
        try:
            while data := connection.recv(65536):
                stream += data
        except OSError:
            pass
    received.append(stream)


def _connect_early(double: Upstream) -> Verdict:
    """Connect while the proxy starts. A connection that is accepted must be answered at once, with open stores."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = "import sys; from clara_proxy.proxy.commands.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "serve", "--port", str(port), "--upstream", f"{double.url}/v1"]
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        env = {"PATH": os.defpath, "HOME": folder, "CLARA_DATA_DIR": f"{folder}/data"}
        process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
        tried, seconds, is_ready = _connect_until_ready(Target(port, Path(folder), process))
    held = is_ready and seconds < 1 and tried > 0
    return Verdict("connections before the stores are open", tried, tried if held else 0, f"{1000 * seconds:.0f} ms")


def _connect_until_ready(target: Target) -> tuple[int, float, bool]:
    """Return how many connections were refused, how long the first accepted one took, and whether it was served."""
    tried = 0
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and target.is_alive:
            try:
                client.connect(target).close()
                break
            except OSError:
                tried += 1
                time.sleep(0.02)
        start_time = time.monotonic()
        is_ready = client.send(target, b"", "/readyz", method="GET").status == 200
        return tried, time.monotonic() - start_time, is_ready
    finally:
        target.process.kill()
        target.process.wait()
