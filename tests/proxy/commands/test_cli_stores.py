"""`clara-proxy ledger` and `clara-proxy originals`, with files and servers."""

import asyncio
import base64
import csv
import io
import json
import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from itertools import chain, repeat
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from clara_proxy.proxy.commands import cli, ledger, originals
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.tests.servers import Postgres, Redis

DAY = 86_400.0
KEY = base64.b64encode(b"k" * 32).decode()


def run(app: Typer, settings: Mapping[str, str], *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments, env=settings)
    assert result.exit_code == code, result.output
    return result.output


def write_ledger(url: str, rows: int = 3) -> None:
    async def write() -> None:
        ledger = Ledger(url)
        await ledger.start()
        for number, label in zip(range(rows), chain(["=1+1", "b"], repeat("c")), strict=False):
            row = Row(f"r{number}", time.time() - number * 10 * DAY, user=label, tokens_received=9, tokens_sent=4)
            ledger.write(apply_bill(row, None, None))
        await ledger.stop()

    asyncio.run(write())


@pytest.fixture(params=["sqlite", "postgres"])
def settings(request: pytest.FixtureRequest, tmp_path: Path, postgres: Postgres) -> dict[str, str]:
    """Settings of a ledger with three rows: 0, 10 and 20 days old."""
    if request.param == "sqlite":
        write_ledger(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
        return {"CLARA_DATA_DIR": str(tmp_path)}
    url = postgres.reset_database()
    write_ledger(url)
    return {"CLARA_LEDGER_URL": url, "CLARA_DATA_DIR": str(tmp_path / "none")}


def test_export_contains_every_row(settings: dict[str, str]) -> None:
    lines = run(ledger.app, settings, "export").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r2", "r1", "r0"]
    assert Row(**json.loads(lines[0])).user == "c"
    table = list(csv.DictReader(io.StringIO(run(ledger.app, settings, "export", "--format", "csv"))))
    assert [row["user"] for row in table] == ["c", "b", "'=1+1"]
    assert run(ledger.app, settings, "export", "--since", "15d").count("\n") == 2


def test_verify_finds_a_changed_row(settings: dict[str, str], tmp_path: Path) -> None:
    assert "FAIL" not in run(ledger.app, settings, "verify")
    if "CLARA_LEDGER_URL" not in settings:
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as database, database:
            database.execute("UPDATE ledger SET tokens_sent = 5 WHERE id = 'r1'")
        output = run(ledger.app, settings, "verify", code=1)
        assert "FAIL  rows: 3" in output
        assert "FAIL  totals of days" in output


COMMANDS = (["verify"], ["export"], ["prune", "--days", "1"])


@pytest.mark.parametrize("arguments", COMMANDS)
def test_file_that_is_no_database_has_a_one_line_error(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1_000)
    output = run(ledger.app, {"CLARA_DATA_DIR": str(tmp_path)}, *arguments, code=1 if arguments == ["verify"] else 2)
    assert output.endswith(f"the ledger {tmp_path}/ledger.sqlite3 cannot be read: file is not a database\n")
    assert output.count("\n") == 1


def test_damaged_ledger_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite3"
    write_ledger(f"sqlite:///{file}", rows=2_000)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = b"\xff" * 30_000
    file.write_bytes(content)
    settings = {"CLARA_DATA_DIR": str(tmp_path)}
    output = run(ledger.app, settings, "verify", code=1)
    assert re.search(
        r"^FAIL  file: (cannot be read\n      -> database disk image is malformed|checked\n      -> .+)$", output, re.M
    )
    file.write_bytes(content[:8_192] + b"\xff" * (len(content) - 8_192))
    for words in (["report"], ["digest"]):
        assert "cannot be read: database disk image is malformed" in run(cli.app, settings, *words, code=2)


def test_unreachable_server_is_reported_without_its_password(tmp_path: Path) -> None:
    settings = {"CLARA_LEDGER_URL": "postgresql://me:hunter2@127.0.0.1:1/x", "CLARA_DATA_DIR": str(tmp_path)}
    for app, words, code in ((ledger.app, ["verify"], 1), (ledger.app, ["export"], 2), (cli.app, ["report"], 2)):
        output = run(app, settings, *words, code=code)
        assert "the ledger cannot be read" in output
        assert "hunter2" not in output
        assert output.count("\n") == 1


def test_prune_keeps_the_given_number_of_days(settings: dict[str, str]) -> None:
    assert "how many days" in run(ledger.app, settings, "prune", code=2)
    assert run(ledger.app, settings, "prune", "--days", "15") == "1 rows deleted\n"
    assert run(ledger.app, {**settings, "CLARA_LEDGER_DAYS": "5"}, "prune") == "1 rows deleted\n"
    assert run(ledger.app, settings, "export").count("\n") == 1


@pytest.mark.parametrize("arguments", [["export"], ["verify"], ["prune", "--days", "1"]])
def test_missing_ledger_is_not_created(tmp_path: Path, arguments: list[str]) -> None:
    assert "no ledger" in run(ledger.app, {}, *arguments, "--data-dir", str(tmp_path), code=2)
    assert not list(tmp_path.iterdir())


def test_invalid_arguments_are_rejected(settings: dict[str, str]) -> None:
    assert "jsonl or csv" in run(ledger.app, settings, "export", "--format", "xml", code=2)
    assert "30m, 24h" in run(ledger.app, settings, "export", "--since", "x", code=2)
    output = run(ledger.app, {"CLARA_LEDGER_URL": "mysql://u:secret@h/x"}, "verify", code=2)
    assert "ledger_url" in output
    assert "secret" not in output


def store_originals(location: Path | str) -> list[str]:
    async def keep() -> list[str]:
        originals = Originals(location, DAY, encryption_keys=[KEY])
        await originals.start()
        names = await originals.put("a", ["one\ntwo\nthree"]) + await originals.put("b", ["other"])
        await originals.stop()
        return names

    return asyncio.run(keep())


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_originals_can_be_listed_shown_and_purged(tmp_path: Path, redis: Redis, kind: str) -> None:
    url = redis.reset_database()
    names = store_originals(tmp_path / "originals.sqlite3" if kind == "sqlite" else url)
    settings = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_ORIGINALS_KEY": KEY}
    settings |= {} if kind == "sqlite" else {"CLARA_ORIGINALS_URL": url}
    output = run(originals.app, settings, "list", "--owner", "a")
    assert output.startswith(f"{names[0]}  a  ")
    assert names[1] not in output
    assert {entry["name"] for entry in json.loads(run(originals.app, settings, "list", "--json"))} == set(names)
    assert run(originals.app, settings, "show", names[0]) == "one\ntwo\nthree\n"
    assert run(originals.app, settings, "show", names[0], "--lines", "2-") == "two\nthree\n"
    assert "two" in run(originals.app, settings, "show", names[0], "--query", "two")
    assert "N-M" in run(originals.app, settings, "show", names[0], "--lines", "x", code=2)
    assert "no original" in run(originals.app, settings, "show", "0" * 16, code=1)
    assert "another key" in run(originals.app, {**settings, "CLARA_ORIGINALS_KEY": ""}, "show", names[0], code=1)
    assert run(originals.app, settings, "purge") == "0 deleted\n"
    assert run(originals.app, settings, "purge", "--owner", "b", "--yes").endswith("1 deleted\n")
    assert "Delete?" in run(originals.app, settings, "purge", "--all", code=1)
    assert run(originals.app, settings, "purge", "--all", "--yes").endswith("1 deleted\n")
    assert "no originals or kept texts are stored" in run(originals.app, settings, "list")


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_notes_of_the_proxy_are_not_listed(tmp_path: Path, redis: Redis, kind: str) -> None:
    location = tmp_path / "originals.sqlite3" if kind == "sqlite" else redis.reset_database()
    names = store_originals(location)

    async def note() -> None:
        notes = Originals(location, 2 * DAY, encryption_keys=[KEY])  # a later expiry puts them first
        await notes.start()
        for number in range(40):
            await notes.store_note("a", f"note{number}", b"x")
        await notes.stop()

    asyncio.run(note())
    settings = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_ORIGINALS_KEY": KEY}
    settings |= {"CLARA_ORIGINALS_URL": location} if isinstance(location, str) else {}
    output = run(originals.app, settings, "list", "--limit", "5")
    assert {line.split()[0] for line in output.splitlines()} == set(names)
    assert run(originals.app, settings, "list", "--limit", "1").count("\n") == 1


def test_missing_originals_are_not_created(tmp_path: Path) -> None:
    assert "no originals" in run(originals.app, {}, "list", "--data-dir", str(tmp_path), code=2)
    assert not list(tmp_path.iterdir())


def test_invalid_encryption_key_is_rejected_and_not_printed() -> None:
    output = run(originals.app, {"CLARA_ORIGINALS_KEY": "secret"}, "list", code=2)
    assert "32 bytes in base64" in output
    assert "secret" not in output
