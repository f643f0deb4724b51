"""The table of keys, in SQLite and in PostgreSQL: the same tests."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from clara_proxy.proxy.stores import api_keys
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX, ApiKey, create_key, hash_key, open_key_store, parse_key_id
from clara_proxy.proxy.stores.ledger import Ledger, select_dialect
from clara_proxy.tests.servers import Postgres

pytestmark = pytest.mark.parametrize("kind", ["sqlite", "postgres"])
Fresh = Callable[[str], str]


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/new/l.sqlite3"
    server: Postgres = request.getfixturevalue("postgres")
    return server.reset_database()


def key(name: str, at: float = 1000.0) -> ApiKey:
    return create_key(name, created=at)[1]


def in_files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def test_a_key_comes_back_as_it_was_made(url: str) -> None:
    said, plain = create_key("alice", project="search", created=1.5)
    full = create_key("root", admin=True, created=2.5)[1]._replace(
        expires=99.5, tokens_per_day=2**40, dollars_per_day=0.25, requests_per_minute=60
    )
    async with open_key_store(url) as kept:
        assert await kept.list_keys() == []
        await kept.add(full)
        await kept.add(plain)
    async with open_key_store(url) as kept:
        found = await kept.list_keys()
    assert found == [plain, full]
    assert isinstance(found[1].admin, bool)
    assert (said[: len(KEY_PREFIX)], parse_key_id(said), hash_key(said)) == (KEY_PREFIX, plain.id, plain.hash)


async def test_the_key_itself_is_nowhere_in_the_database(url: str, kind: str, tmp_path: Path) -> None:
    said, one = create_key("alice", created=1.0)
    secret = said.removeprefix(KEY_PREFIX + parse_key_id(said))
    assert len(secret) == 48
    async with open_key_store(url) as kept:
        await kept.add(one)
    if kind == "sqlite":
        written = in_files(tmp_path)
        assert one.hash.encode() in written
        assert secret.encode() not in written
    else:
        engine = await select_dialect(url).open()
        async with engine.connect() as connection:
            rows = list(await connection.execute(text("SELECT * FROM proxy_keys")))
        await engine.dispose()
        assert len(rows) == 1
        assert secret not in str(rows)


async def test_two_keys_that_hold_have_two_names_and_a_revoked_one_gives_its_name_back(url: str) -> None:
    async with open_key_store(url) as kept:
        await kept.add(key("alice"))
        with pytest.raises(ValueError, match="alice already"):
            await kept.add(key("alice"))
        assert await kept.revoke("alice", 2000.0) == 1
        assert await kept.revoke("alice", 3000.0) == 0
        await kept.add(key("alice", 2001.0))
        assert [one.revoked for one in await kept.list_keys()] == [2000.0, None]


async def test_a_key_is_revoked_by_its_id_too_and_no_other_with_it(url: str) -> None:
    one, two = key("alice"), key("bob")
    async with open_key_store(url) as kept:
        for each in (one, two):
            await kept.add(each)
        assert await kept.revoke(one.id, 5.0) == 1
        assert await kept.revoke("' OR 1=1 --", 5.0) == 0
        assert {each.name: each.revoked for each in await kept.list_keys()} == {"alice": 5.0, "bob": None}


async def test_every_change_is_told_by_a_number(url: str) -> None:
    async with open_key_store(url) as kept, open_key_store(url) as elsewhere:
        seen = [await kept.read_version()]
        await elsewhere.add(key("alice"))
        seen.append(await kept.read_version())
        await elsewhere.revoke("alice", 1.0)
        seen.append(await kept.read_version())
        assert len(set(seen)) == 3
        assert await kept.read_version() == seen[-1]


async def test_processes_may_start_at_once(url: str) -> None:
    async def one(name: str) -> None:
        async with open_key_store(url) as kept:
            await kept.add(key(name))

    await asyncio.gather(*(one(f"k{number}") for number in range(8)))
    async with open_key_store(url) as kept:
        assert len(await kept.list_keys()) == 8


async def test_the_ledger_does_not_mind_whether_it_or_the_keys_were_there_first(url: str) -> None:
    async with open_key_store(url) as kept:
        await kept.add(key("alice"))
        ledger = Ledger(url)
        await ledger.start()
        assert await ledger.read_totals() == []
        await ledger.stop()
        assert len(await kept.list_keys()) == 1


async def test_keys_of_a_later_version_are_left_alone(url: str) -> None:
    async with open_key_store(url):
        pass
    engine = await select_dialect(url).open()
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE proxy_keys_version SET step = {len(api_keys.MIGRATIONS) + 1}"))
    await engine.dispose()
    with pytest.raises(ValueError, match="a later one"):
        async with open_key_store(url):
            pass


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".", "a/b", "a\n", "é", "x" * 65, 'a"b', "a\0"])
def test_a_name_is_one_that_labels_can_bear(kind: str, name: str) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        create_key(name, created=1.0)


def test_no_two_keys_are_alike(kind: str) -> None:
    said = [create_key("a", created=1.0)[0] for _ in range(1000)]
    assert len(set(said)) == 1000
    assert all(one.startswith(KEY_PREFIX) and len(one) == len(KEY_PREFIX) + 56 for one in said)
