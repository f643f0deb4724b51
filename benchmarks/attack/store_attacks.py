"""Attacks on the stores: expired data, foreign locks, a removed directory, and files that are no databases."""

import asyncio
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson

from clara_proxy.proxy.stores.ledger import Ledger, ledger_url
from clara_proxy.proxy.stores.originals import Originals

from . import client
from .reply_attacks import LOG_TEXT
from .target import Target, run_target
from .upstream import Upstream, run_upstream
from .verdict import Verdict

MEGABYTE = 2**20


def run(quick: bool) -> list[Verdict]:
    """Run the attacks."""
    with run_upstream() as upstream:
        verdicts = [_attack_with_expired(upstream, 40 if quick else 1200), *_attack_one_proxy(upstream)]
        return verdicts if quick else [*verdicts, _attack_with_files(upstream)]


def _attack_one_proxy(upstream: Upstream) -> list[Verdict]:
    with run_target(upstream.url) as target:
        return [_attack_with_lock(target), _attack_by_removal(target, upstream)]


def send_tool_output(target: Target) -> client.Answer:
    """Send a tool output whose original must be stored, with half a second for everything."""
    message = {"role": "tool", "tool_call_id": "c", "content": f"{random.random()}\n{LOG_TEXT}"}
    body = client.SMALL_CHAT | {"messages": [message], "tools": [client.TOOL]}
    return client.send(target, body, x_clara_deadline_ms="500")


def fill_expired(path: Path, megabytes: int) -> None:
    """Fill the store of originals with entries that have expired."""
    with closing(sqlite3.connect(path)) as database:
        rows = ((f"o{n}", f"{n:016x}", 1.0, b"x" * MEGABYTE) for n in range(megabytes))
        database.executemany("INSERT INTO originals VALUES (?, ?, ?, ?)", rows)
        database.commit()


def _attack_with_expired(upstream: Upstream, megabytes: int) -> Verdict:
    """Start beside a store of expired entries. No request may wait for their deletion."""
    with tempfile.TemporaryDirectory(prefix="attack-") as name:
        folder = Path(name)
        asyncio.run(_create_stores(folder))
        fill_expired(folder / "originals.sqlite3", megabytes)
        with run_target(upstream.url, data_dir=name) as target:
            start_time, answers, longest = time.monotonic(), list[client.Answer](), 0.0
            while time.monotonic() - start_time < 1.5:
                begin = time.monotonic()
                answers.append(send_tool_output(target))
                longest = max(longest, time.monotonic() - begin)
            is_free, holds = client.describe_holds(target)
            is_purged = _wait_until(lambda: _count_entries(folder) <= len(answers), 5 + megabytes / 10)
    in_time = sum(a.status == 200 and a.headers["x-clara-skipped"] != "failed=1" for a in answers)
    survived = in_time if is_free and is_purged and longest < 10 else 0
    detail = f"{holds}, longest request {1000 * longest:.0f} ms"
    return Verdict(f"{megabytes} MB of expired originals", len(answers), survived, detail)


async def _create_stores(folder: Path) -> None:
    """Create both databases: originals without a ledger prevent the start."""
    await _create_ledger(folder)
    originals = Originals(folder / "originals.sqlite3", 60)
    await originals.start()
    await originals.stop()


async def _create_ledger(folder: Path) -> None:
    async with Ledger(ledger_url(folder)):
        pass


def _attack_with_lock(target: Target) -> Verdict:
    """Hold the lock of the originals in another process. Passages go up unchanged within the deadline."""
    send_tool_output(target)
    path = target.folder / "data" / "originals.sqlite3"
    code = f"import sqlite3,time;d=sqlite3.connect({str(path)!r});d.execute('BEGIN IMMEDIATE');print(1,flush=True);"
    with subprocess.Popen([sys.executable, "-c", f"{code}time.sleep(60)"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        start_time = time.monotonic()
        answers = [send_tool_output(target) for _ in range(3)]
        seconds = (time.monotonic() - start_time) / 3
        holder.kill()
    late = sum(a.status == 200 and a.headers["x-clara-skipped"] in ("late=1", "failed=1") for a in answers)
    is_compressed_again = _wait_until(lambda: int(send_tool_output(target).headers["x-clara-tokens-saved"]) > 0, 5)
    survived = late if seconds < 4 and is_compressed_again else 0
    return Verdict("a foreign lock on the originals", 3, survived, f"{1000 * seconds:.0f} ms a request")


def _attack_by_removal(target: Target, upstream: Upstream) -> Verdict:
    """Remove the data directory. The proxy must say so, and must not forward markers without originals."""
    shutil.rmtree(target.folder / "data")
    is_noticed = _wait_until(lambda: client.send(target, b"", "/readyz", method="GET").status == 503, 10)
    metrics = client.send(target, b"", "/metrics", method="GET").body
    upstream.reset()
    is_served = send_tool_output(target).status == 200
    is_whole = LOG_TEXT.encode() in orjson.dumps(orjson.loads(upstream.bodies[-1])).replace(b"\\n", b"\n")
    held = is_noticed and b'clara_store_up{store="ledger"} 0.0' in metrics and is_served and is_whole
    return Verdict("a removed data directory", 1, int(held), "seen on /readyz and /metrics")


def _attack_with_files(upstream: Upstream) -> Verdict:
    """Start on files that are no databases, or are broken ones. The proxy must not start, and must say why."""
    pickle = b"\x80\x04\x95\x1e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93\x8c\x08touch /x\x85R."
    contents = {
        "a pickle": pickle,
        "noise": random.Random(1).randbytes(65536),
        "a cut header": b"SQLite format 3\x00" + b"\xff" * 2000,
        "a page of zeros": b"SQLite format 3\x00" + bytes(8192),
    }
    survived, tried = 0, 0
    for content in contents.values():
        for name in ("ledger.sqlite3", "originals.sqlite3"):
            tried += 1
            folder = Path(f"/tmp/attack-files-{random.getrandbits(64):x}")
            folder.mkdir(mode=0o700)
            asyncio.run(_create_ledger(folder))
            (folder / name).write_bytes(content)
            try:
                with run_target(upstream.url, data_dir=str(folder)) as target:
                    survived += client.is_serving(target) and (folder / name).read_bytes()[:64] != content[:64]
            except RuntimeError as error:
                survived += "cannot be opened" in str(error)
            finally:
                shutil.rmtree(folder)
    return Verdict("files that are no databases", tried, survived)


def _count_entries(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "originals.sqlite3")) as database:
        return int(database.execute("SELECT count(*) FROM originals").fetchone()[0])


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
