"""Proxies with external or full stores of originals and with an external ledger."""

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


async def count_requests_by_mode(url: str) -> dict[Any, Any]:
    ledger = Ledger(url)
    await ledger.start()
    try:
        return {total["group"]: total["requests"] for total in await ledger.read_totals("mode")}
    finally:
        await ledger.stop()


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_replica_returns_originals_of_another(
    tmp_path: Path, upstream: FaultyUpstream, postgres: Postgres, redis: Redis, kind: str
) -> None:
    database = postgres.reset_database()
    settings: dict[str, Any] = {"originals_url": database if kind == "postgres" else redis.reset_database()}
    settings["ledger_url"] = database
    with running.run_proxy(upstream.url, tmp_path / "one", **settings) as first:
        assert first.post(tool_chat(), x_clara_retrieve="url").status_code == 200
        name = MARKER.findall(upstream.last_request.json["messages"][-1]["content"])[0]
    with running.run_proxy(upstream.url, tmp_path / "two", **settings) as second:  # after the first has stopped
        response = httpx.get(f"{second.url}/v1/retrieve/{name}", headers=HEADERS)
        assert response.json()["original_content"] == tool_chat()["messages"][-1]["content"]
        other = {"authorization": "Bearer somebody-else"}
        assert httpx.get(f"{second.url}/v1/retrieve/{name}", headers=other).status_code == 404
    assert not list((tmp_path / "one").glob("originals*"))
    assert asyncio.run(count_requests_by_mode(database)) == {"extract": 1, "off": 2}


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_purged_originals_are_stored_again_before_a_marker_is_sent(
    tmp_path: Path, upstream: FaultyUpstream, postgres: Postgres, redis: Redis, kind: str
) -> None:
    url = {
        "sqlite": f"sqlite:///{tmp_path}/o.sqlite3",
        "postgres": postgres.reset_database(),
        "redis": redis.reset_database(),
    }[kind]
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_ORIGINALS_URL": url}
    with running.run_proxy(upstream.url, tmp_path, originals_url=url) as proxy:
        for is_purged in (False, True):
            if is_purged:
                result = CliRunner().invoke(originals.app, ["purge", "--all", "--yes"], env=environment)
                assert result.exit_code == 0, result.output
                assert not result.stdout.startswith("0 deleted")
            assert proxy.post(tool_chat(), x_clara_retrieve="url").status_code == 200
            name = MARKER.findall(upstream.last_request.json["messages"][-1]["content"])[0]
            response = httpx.get(f"{proxy.url}/v1/retrieve/{name}", headers=HEADERS)
            assert response.json().get("original_content") == tool_chat()["messages"][-1]["content"]


def test_passages_are_forwarded_unchanged_if_the_store_is_full(tmp_path: Path, upstream: FaultyUpstream) -> None:
    noise = "\n".join(f"10:00:{number % 60:02d} INFO {os.urandom(60).hex()}" for number in range(25_000))
    with running.run_proxy(upstream.url, tmp_path, originals_mb=1) as proxy:
        for _ in range(2):
            answer = proxy.post(tool_chat(noise), x_clara_retrieve="url", x_clara_deadline_ms="60000")
            assert "store-full=1" in answer.headers["x-clara-skipped"]
            assert upstream.last_request.json["messages"][-1]["content"].startswith(noise)
            row = proxy.wait_for_row(answer)
            assert (json.loads(row.skipped)["store-full"], row.saved_tokens) == (1, 0)
        assert int(proxy.post(tool_chat(), x_clara_retrieve="url").headers["x-clara-tokens-saved"]) > 1_000


SCRIPT_WITHOUT_EXTRAS = """
import sys
sys.modules.update({"asyncpg": None, "redis": None, "redis.asyncio": None, "cryptography": None})
import clara_proxy.proxy.app
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.originals import Originals
for create in (
    lambda: Ledger("postgresql://host/x"),
    lambda: Originals("postgresql://host/x", 60),
    lambda: Originals("redis://host", 60),
    lambda: Originals("sqlite:///x", 60, encryption_keys=["a2V5" * 10 + "a2U="]),
):
    try:
        create()
    except Exception as error:
        print(error)
"""


def test_missing_extras_are_named_and_not_required() -> None:
    result = subprocess.run([sys.executable, "-c", SCRIPT_WITHOUT_EXTRAS], capture_output=True, text=True, check=True)
    extras = [re.findall(r"\[(\w+)\]", line) for line in result.stdout.splitlines()]
    assert extras == [["postgres"], ["postgres"], ["redis"], ["encrypted"]]
