"""Proxies whose originals and ledger are elsewhere, or full."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from clara_proxy.proxy.commands import originals
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.running import CLIENT_KEY, tool_chat
from clara_proxy.tests.servers import Postgres, Redis

MARKER = re.compile(r"GET /v1/retrieve/([0-9a-f]{16})")
HEADERS = {"authorization": f"Bearer {CLIENT_KEY}"}


async def modes(url: str) -> dict[Any, Any]:
    ledger = Ledger(url)
    await ledger.start()
    try:
        return {total["group"]: total["requests"] for total in await ledger.read_totals("mode")}
    finally:
        await ledger.stop()


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_second_replica_redeems_what_the_first_left_out(
    tmp_path: Path, upstream: FaultyUpstream, postgres: Postgres, redis: Redis, kind: str
) -> None:
    database = postgres.reset_database()
    chosen: dict[str, Any] = {"originals_url": database if kind == "postgres" else redis.reset_database()}
    chosen["ledger_url"] = database
    with running.run_proxy(upstream.url, tmp_path / "one", **chosen) as one:
        assert one.post(tool_chat(), x_clara_retrieve="url").status_code == 200
        name = MARKER.findall(upstream.last_request.json["messages"][-1]["content"])[0]
    with running.run_proxy(upstream.url, tmp_path / "two", **chosen) as two:  # after the first has gone
        found = httpx.get(f"{two.url}/v1/retrieve/{name}", headers=HEADERS)
        assert found.json()["original_content"] == tool_chat()["messages"][-1]["content"]
        other = {"authorization": "Bearer somebody-else"}
        assert httpx.get(f"{two.url}/v1/retrieve/{name}", headers=other).status_code == 404
    assert not list((tmp_path / "one").glob("originals*"))
    assert asyncio.run(modes(database)) == {"extract": 1, "off": 2}


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_what_was_purged_meanwhile_is_stored_anew_before_a_marker_leaves(
    tmp_path: Path, upstream: FaultyUpstream, postgres: Postgres, redis: Redis, kind: str
) -> None:
    url = {
        "sqlite": f"sqlite:///{tmp_path}/o.sqlite3",
        "postgres": postgres.reset_database(),
        "redis": redis.reset_database(),
    }[kind]
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_ORIGINALS_URL": url}
    with running.run_proxy(upstream.url, tmp_path, originals_url=url) as proxy:
        for purged in (False, True):
            if purged:
                done = CliRunner().invoke(originals.app, ["purge", "--all", "--yes"], env=environment)
                assert done.exit_code == 0, done.output
                assert not done.stdout.startswith("0 deleted")
            assert proxy.post(tool_chat(), x_clara_retrieve="url").status_code == 200
            name = MARKER.findall(upstream.last_request.json["messages"][-1]["content"])[0]
            found = httpx.get(f"{proxy.url}/v1/retrieve/{name}", headers=HEADERS)
            assert found.json().get("original_content") == tool_chat()["messages"][-1]["content"]


def test_where_there_is_no_room_passages_are_sent_as_they_are(tmp_path: Path, upstream: FaultyUpstream) -> None:
    noise = "\n".join(f"10:00:{number % 60:02d} INFO {os.urandom(60).hex()}" for number in range(25_000))
    with running.run_proxy(upstream.url, tmp_path, originals_mb=1) as proxy:
        for _ in range(2):
            answer = proxy.post(tool_chat(noise), x_clara_retrieve="url", x_clara_deadline_ms="60000")
            assert "store-full=1" in answer.headers["x-clara-skipped"]
            assert upstream.last_request.json["messages"][-1]["content"].startswith(noise)
            row = proxy.wait_for_row(answer)
            assert (json.loads(row.skipped)["store-full"], row.saved_tokens) == (1, 0)
        assert int(proxy.post(tool_chat(), x_clara_retrieve="url").headers["x-clara-tokens-saved"]) > 1_000


WITHOUT = """
import sys
sys.modules.update({"asyncpg": None, "redis": None, "redis.asyncio": None, "cryptography": None})
import clara_proxy.proxy.app
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.originals import Originals
for made in (
    lambda: Ledger("postgresql://host/x"),
    lambda: Originals("postgresql://host/x", 60),
    lambda: Originals("redis://host", 60),
    lambda: Originals("sqlite:///x", 60, keys=["a2V5" * 10 + "a2U="]),
):
    try:
        made()
    except Exception as error:
        print(error)
"""


def test_what_is_not_installed_is_said_and_not_needed_without() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    extras = [re.findall(r"clara-proxy\[(\w+)\]", line) for line in done.stdout.splitlines()]
    assert extras == [["postgres"], ["postgres"], ["redis"], ["encrypted"]]
