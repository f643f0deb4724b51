"""The table of keys: every test runs with SQLite and with PostgreSQL."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from clara_proxy.proxy.stores import api_keys
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX, ApiKey, create_key, hash_key, open_key_store, parse_key_id
from clara_proxy.proxy.stores.ledger import Ledger, select_dialect
from clara_proxy.tests.servers import Postgres

pytestmark = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/new/l.sqlite3"
    server: Postgres = request.getfixturevalue("postgres")
    return server.reset_database()


def make_key(name: str, created: float = 1000.0) -> ApiKey:
    return create_key(name, created=created)[1]


def read_files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_keys_survive_a_round_trip(url: str) -> None:
    secret_key, plain = create_key("alice", project="search", created=1.5)
    full = create_key("root", admin=True, created=2.5)[1]._replace(
        expires=99.5, tokens_per_day=2**40, dollars_per_day=0.25, requests_per_minute=60
    )
    async with open_key_store(url) as keys:
        assert await keys.list_keys() == []
        await keys.add(full)
        await keys.add(plain)
    async with open_key_store(url) as keys:
        stored = await keys.list_keys()
    assert stored == [plain, full]
    assert isinstance(stored[1].admin, bool)
    assert (secret_key[: len(KEY_PREFIX)], parse_key_id(secret_key), hash_key(secret_key)) == (
        KEY_PREFIX,
        plain.id,
        plain.hash,
    )


async def test_the_secret_is_not_stored(url: str, kind: str, tmp_path: Path) -> None:
    secret_key, entry = create_key("alice", created=1.0)
    secret = secret_key.removeprefix(KEY_PREFIX + parse_key_id(secret_key))
    assert len(secret) == 48
    async with open_key_store(url) as keys:
        await keys.add(entry)
    if kind == "sqlite":
        contents = read_files(tmp_path)
        assert entry.hash.encode() in contents
        assert secret.encode() not in contents
    else:
        engine = await select_dialect(url).open()
        async with engine.connect() as connection:
            rows = list(await connection.execute(text("SELECT * FROM proxy_keys")))
        await engine.dispose()
        assert len(rows) == 1
        assert secret not in str(rows)


async def test_names_are_unique_until_the_key_is_revoked(url: str) -> None:
    async with open_key_store(url) as keys:
        await keys.add(make_key("alice"))
        with pytest.raises(ValueError, match="alice already exists"):
            await keys.add(make_key("alice"))
        assert await keys.revoke("alice", 2000.0) == 1
        assert await keys.revoke("alice", 3000.0) == 0
        await keys.add(make_key("alice", 2001.0))
        assert [entry.revoked for entry in await keys.list_keys()] == [2000.0, None]


async def test_a_key_can_be_revoked_by_id(url: str) -> None:
    alice, bob = make_key("alice"), make_key("bob")
    async with open_key_store(url) as keys:
        for entry in (alice, bob):
            await keys.add(entry)
        assert await keys.revoke(alice.id, 5.0) == 1
        assert await keys.revoke("' OR 1=1 --", 5.0) == 0
        assert {entry.name: entry.revoked for entry in await keys.list_keys()} == {"alice": 5.0, "bob": None}


async def test_every_change_increments_the_version(url: str) -> None:
    async with open_key_store(url) as keys, open_key_store(url) as elsewhere:
        versions = [await keys.read_version()]
        await elsewhere.add(make_key("alice"))
        versions.append(await keys.read_version())
        await elsewhere.revoke("alice", 1.0)
        versions.append(await keys.read_version())
        assert len(set(versions)) == 3
        assert await keys.read_version() == versions[-1]


async def test_key_stores_can_start_concurrently(url: str) -> None:
    async def add_key(name: str) -> None:
        async with open_key_store(url) as keys:
            await keys.add(make_key(name))

    await asyncio.gather(*(add_key(f"k{number}") for number in range(8)))
    async with open_key_store(url) as keys:
        assert len(await keys.list_keys()) == 8


async def test_ledger_and_keys_can_be_created_in_any_order(url: str) -> None:
    async with open_key_store(url) as keys:
        await keys.add(make_key("alice"))
        ledger = Ledger(url)
        await ledger.start()
        assert await ledger.read_totals() == []
        await ledger.stop()
        assert len(await keys.list_keys()) == 1


async def test_keys_of_a_later_version_are_rejected(url: str) -> None:
    async with open_key_store(url):
        pass
    engine = await select_dialect(url).open()
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE proxy_keys_version SET step = {len(api_keys.MIGRATIONS) + 1}"))
    await engine.dispose()
    with pytest.raises(ValueError, match="a later version"):
        async with open_key_store(url):
            pass


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".", "a/b", "a\n", "é", "x" * 65, 'a"b', "a\0"])
def test_invalid_key_names_are_rejected(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        create_key(name, created=1.0)


def test_keys_are_unique(kind: str) -> None:
    secret_keys = [create_key("a", created=1.0)[0] for _ in range(1000)]
    assert len(set(secret_keys)) == 1000
    assert all(key.startswith(KEY_PREFIX) and len(key) == len(KEY_PREFIX) + 56 for key in secret_keys)
