"""A data directory of an earlier version opens, and a new one has the same schema.

`old_data/`, written at commit c0a6c12, contains SQL dumps of its ledger (three requests, one of them a shadow check,
and a key) and of its originals.
"""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from clara_proxy.proxy.stores.api_keys import open_key_store
from clara_proxy.proxy.stores.ledger import Ledger, ledger_url
from clara_proxy.proxy.stores.ledger_audit import audit
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.originals import Originals
from clara_proxy.tests.servers import Postgres

DUMPS = Path(__file__).parent / "old_data"
NOW = 1e9  # the originals in the dump expire later
OLD_TOTAL = {
    "requests": 2,
    "failures": 0,
    "received": 180,
    "sent": 150,
    "saved": 30,
    "would_save": 30,
    "fetched_back": 14,
    "billed_input": 230,
    "cache_read": 60,
    "cost": pytest.approx(0.00055),
    "saved_cost": pytest.approx(-0.000325),
    "cost_without": pytest.approx(0.000225),
    "unpriced": 1,
    "unpriced_savings": 1,
    "estimated": 1,
    "shadows": 1,
    "latency_ms": 40.25,
}


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    for dump in DUMPS.glob("*.sql"):
        with closing(sqlite3.connect(tmp_path / f"{dump.stem}.sqlite3")) as database:
            database.executescript(dump.read_text())
    return tmp_path


def read_columns(path: Path) -> dict[str, list[Any]]:
    """Return name, type, NOT NULL, default and primary key of the columns of each table, and all indexes."""
    with closing(sqlite3.connect(path)) as database:
        names = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {name: database.execute(f"PRAGMA table_info({name})").fetchall() for name in sorted(names)}
        indexes = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name").fetchall()
    return {**columns, "indexes": [(name, re.sub(r"\s+", " ", sql or "")) for name, sql in indexes]}


async def test_an_old_ledger_opens_with_rows_totals_and_keys(old_folder: Path) -> None:
    url = ledger_url(old_folder)
    async with Ledger(url) as ledger:
        rows = [row async for row in ledger.iter_rows()]
        assert [row.id for row in rows] == ["req_1", "req_2", "req_3"]
        assert rows[0].cost == pytest.approx(0.00021)
        assert (rows[0].cost_without, rows[0].streamed) == (0.000225, False)
        assert rows[1] == rows[1]._replace(would_send=20, tokens_estimated=True, skipped='{"short":1}', cost=None)
        assert (rows[2].shadow_of, rows[2].agreement) == ("req_1", '{"tools":1.0}')
        (total,) = await ledger.read_totals("all")
        assert OLD_TOTAL.items() <= total.items()
        assert [finding.problem async for finding in audit(ledger)] == ["", "", ""]
        ledger.write(Row("req_4", 180_001.0, tokens_received=5, tokens_sent=5))
        await ledger.flush()
        assert (await ledger.read_totals("all"))[0]["received"] == 185
    async with open_key_store(url) as keys:
        assert [key.name for key in await keys.list_keys()] == ["alice"]


async def test_old_originals_and_notes_can_be_fetched(old_folder: Path) -> None:
    originals = Originals(old_folder / "originals.sqlite3", 60.0, lambda: NOW)
    await originals.start()
    assert await originals.get("owner", "36ecc8df32339ad1") == "the old text " * 3
    assert await originals.read_notes("owner", ["place"]) == {"place": b"hidden"}
    assert await originals.delete_all() == 2
    await originals.stop()


async def test_an_old_ledger_gets_the_schema_of_a_new_one(old_folder: Path, tmp_path: Path) -> None:
    for folder in (old_folder, tmp_path / "new"):
        async with Ledger(ledger_url(folder)), open_key_store(ledger_url(folder)):
            pass
    assert read_columns(tmp_path / "new" / "ledger.sqlite3") == read_columns(old_folder / "ledger.sqlite3")


async def test_originals_of_the_first_postgres_schema_open(postgres: Postgres) -> None:
    url = postgres.reset_database()
    connection = await asyncpg.connect(url)
    await connection.execute("""
        CREATE TABLE originals (
            owner TEXT NOT NULL, name TEXT NOT NULL, expires DOUBLE PRECISION NOT NULL, body BYTEA NOT NULL,
            PRIMARY KEY (owner, name)
        );
        ALTER TABLE originals ALTER body SET STORAGE EXTERNAL;
        CREATE INDEX originals_expires ON originals (expires);
        CREATE TABLE originals_size (only_one SMALLINT PRIMARY KEY, bytes BIGINT NOT NULL);
        INSERT INTO originals_size VALUES (1, 30);
        INSERT INTO originals
        VALUES ('owner', '36ecc8df32339ad1', 12e9, '\\x28B52FFD20279D000068746865206F6C64207465787420010060CF2F');
    """)
    await connection.close()
    originals = Originals(url, 60.0, lambda: NOW)
    await originals.start()
    assert await originals.get("owner", "36ecc8df32339ad1") == "the old text " * 3
    assert await originals.put("owner", ["new"]) != []
    assert await originals.delete_all("owner") == 2
    await originals.stop()
