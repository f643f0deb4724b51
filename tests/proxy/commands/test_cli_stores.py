"""`clara-proxy ledger` and `clara-proxy originals`, on files and on a server."""

import asyncio
import base64
import csv
import io
import json
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


def said(app: Typer, settings: Mapping[str, str], *arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, arguments, env=settings)
    assert done.exit_code == code, done.output
    return done.output


def written(url: str, rows: int = 3) -> None:
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
    """The settings of a ledger with three rows: of now, of ten and of twenty days ago."""
    if request.param == "sqlite":
        written(f"sqlite:///{tmp_path / 'ledger.sqlite3'}")
        return {"CLARA_DATA_DIR": str(tmp_path)}
    url = postgres.reset_database()
    written(url)
    return {"CLARA_LEDGER_URL": url, "CLARA_DATA_DIR": str(tmp_path / "none")}


def test_an_export_has_every_row(settings: dict[str, str]) -> None:
    lines = said(ledger.app, settings, "export").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r2", "r1", "r0"]
    assert Row(**json.loads(lines[0])).user == "c"
    table = list(csv.DictReader(io.StringIO(said(ledger.app, settings, "export", "--format", "csv"))))
    assert [row["user"] for row in table] == ["c", "b", "'=1+1"]
    assert said(ledger.app, settings, "export", "--since", "15d").count("\n") == 2


def test_a_sound_ledger_is_verified_and_another_is_not(settings: dict[str, str], tmp_path: Path) -> None:
    assert "FAIL" not in said(ledger.app, settings, "verify")
    if "CLARA_LEDGER_URL" not in settings:
        with closing(sqlite3.connect(tmp_path / "ledger.sqlite3")) as database, database:
            database.execute("UPDATE ledger SET tokens_sent = 5 WHERE id = 'r1'")
        told = said(ledger.app, settings, "verify", code=1)
        assert "FAIL  rows: 3" in told
        assert "FAIL  totals of days" in told


WORDS = (["verify"], ["export"], ["prune", "--days", "1"])


@pytest.mark.parametrize("arguments", WORDS)
def test_a_file_that_is_no_database_is_said_in_a_sentence(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1_000)
    told = said(ledger.app, {"CLARA_DATA_DIR": str(tmp_path)}, *arguments, code=1 if arguments == ["verify"] else 2)
    assert told.endswith(f"the ledger {tmp_path}/ledger.sqlite3 cannot be read: file is not a database\n")
    assert told.count("\n") == 1


def test_a_damaged_ledger_is_found_to_be_damaged(tmp_path: Path) -> None:
    file = tmp_path / "ledger.sqlite3"
    written(f"sqlite:///{file}", rows=2_000)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 30_000] = b"\xff" * 30_000
    file.write_bytes(content)
    settings = {"CLARA_DATA_DIR": str(tmp_path)}
    told = said(ledger.app, settings, "verify", code=1)
    assert "FAIL  file: cannot be read\n      -> database disk image is malformed\n" in told
    file.write_bytes(content[:8_192] + b"\xff" * (len(content) - 8_192))
    for words in (["report"], ["digest"]):
        assert "cannot be read: database disk image is malformed" in said(cli.app, settings, *words, code=2)


def test_a_server_that_cannot_be_reached_is_said_without_its_password(tmp_path: Path) -> None:
    settings = {"CLARA_LEDGER_URL": "postgresql://me:hunter2@127.0.0.1:1/x", "CLARA_DATA_DIR": str(tmp_path)}
    for app, words, code in ((ledger.app, ["verify"], 1), (ledger.app, ["export"], 2), (cli.app, ["report"], 2)):
        told = said(app, settings, *words, code=code)
        assert "the ledger cannot be read" in told
        assert "hunter2" not in told
        assert told.count("\n") == 1


def test_pruning_keeps_so_many_days(settings: dict[str, str]) -> None:
    assert "how many days" in said(ledger.app, settings, "prune", code=2)
    assert said(ledger.app, settings, "prune", "--days", "15") == "1 rows deleted\n"
    assert said(ledger.app, {**settings, "CLARA_LEDGER_DAYS": "5"}, "prune") == "1 rows deleted\n"
    assert said(ledger.app, settings, "export").count("\n") == 1


@pytest.mark.parametrize("arguments", [["export"], ["verify"], ["prune", "--days", "1"]])
def test_where_no_ledger_is_none_is_made(tmp_path: Path, arguments: list[str]) -> None:
    assert "no ledger" in said(ledger.app, {}, *arguments, "--data-dir", str(tmp_path), code=2)
    assert not list(tmp_path.iterdir())


def test_what_makes_no_sense_is_refused(settings: dict[str, str]) -> None:
    assert "jsonl or csv" in said(ledger.app, settings, "export", "--format", "xml", code=2)
    assert "30m, 24h" in said(ledger.app, settings, "export", "--since", "x", code=2)
    told = said(ledger.app, {"CLARA_LEDGER_URL": "mysql://u:secret@h/x"}, "verify", code=2)
    assert "ledger_url" in told
    assert "secret" not in told


def kept(where: Path | str) -> list[str]:
    async def keep() -> list[str]:
        originals = Originals(where, DAY, encryption_keys=[KEY])
        await originals.start()
        names = await originals.put("a", ["one\ntwo\nthree"]) + await originals.put("b", ["other"])
        await originals.stop()
        return names

    return asyncio.run(keep())


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_originals_are_listed_shown_and_purged(tmp_path: Path, redis: Redis, kind: str) -> None:
    url = redis.reset_database()
    names = kept(tmp_path / "originals.sqlite3" if kind == "sqlite" else url)
    settings = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_ORIGINALS_KEY": KEY}
    settings |= {} if kind == "sqlite" else {"CLARA_ORIGINALS_URL": url}
    listed = said(originals.app, settings, "list", "--owner", "a")
    assert listed.startswith(f"{names[0]}  a  ")
    assert names[1] not in listed
    assert said(originals.app, settings, "show", names[0]) == "one\ntwo\nthree\n"
    assert said(originals.app, settings, "show", names[0], "--lines", "2-") == "two\nthree\n"
    assert "two" in said(originals.app, settings, "show", names[0], "--query", "two")
    assert "N-M" in said(originals.app, settings, "show", names[0], "--lines", "x", code=2)
    assert "no original" in said(originals.app, settings, "show", "0" * 16, code=1)
    assert "another key" in said(originals.app, {**settings, "CLARA_ORIGINALS_KEY": ""}, "show", names[0], code=1)
    assert said(originals.app, settings, "purge") == "0 wiped\n"
    assert said(originals.app, settings, "purge", "--owner", "b", "--yes").endswith("1 wiped\n")
    assert "Wipe?" in said(originals.app, settings, "purge", "--all", code=1)
    assert said(originals.app, settings, "purge", "--all", "--yes").endswith("1 wiped\n")
    assert "nothing is kept" in said(originals.app, settings, "list")


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_the_proxy_notes_for_itself_is_no_original(tmp_path: Path, redis: Redis, kind: str) -> None:
    where = tmp_path / "originals.sqlite3" if kind == "sqlite" else redis.reset_database()
    names = kept(where)

    async def note() -> None:
        notes = Originals(where, 2 * DAY, encryption_keys=[KEY])  # kept for longer, so that they come first
        await notes.start()
        for number in range(40):
            await notes.store_note("a", f"note{number}", b"x")
        await notes.stop()

    asyncio.run(note())
    settings = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_ORIGINALS_KEY": KEY}
    settings |= {"CLARA_ORIGINALS_URL": where} if isinstance(where, str) else {}
    listed = said(originals.app, settings, "list", "--limit", "5")
    assert {line.split()[0] for line in listed.splitlines()} == set(names)
    assert said(originals.app, settings, "list", "--limit", "1").count("\n") == 1


def test_where_no_originals_are_none_are_made(tmp_path: Path) -> None:
    assert "no originals" in said(originals.app, {}, "list", "--data-dir", str(tmp_path), code=2)
    assert not list(tmp_path.iterdir())


def test_a_key_that_is_none_is_refused_and_not_repeated() -> None:
    told = said(originals.app, {"CLARA_ORIGINALS_KEY": "secret"}, "list", code=2)
    assert "32 bytes in base64" in told
    assert "secret" not in told
