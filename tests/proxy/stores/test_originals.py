"""Originals in every store there is: the same promises in SQLite, in PostgreSQL and in Redis."""

import asyncio
import base64
import os
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis as Client

from clara_proxy.proxy.stores.originals import NAME_LENGTH, Originals, OriginalsError, StoreFullError, compute_name
from clara_proxy.tests import servers
from clara_proxy.tests.servers import Postgres, Redis

TEXT = st.text(st.characters(codec=None))
PRINTABLE = st.text(st.characters(min_codepoint=32, codec="utf-8"), max_size=20)
DAY = 86_400.0
KINDS = ("sqlite", "postgres", "redis")
Fresh = Callable[[str], Path | str]
every_store = pytest.mark.parametrize("kind", KINDS)


class Clock:
    """As Redis has a clock of its own, this one begins at the time that it is."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, redis: Redis) -> Fresh:
    """Make an empty store of a kind, and say where it is."""

    def made(kind: str) -> Path | str:
        if kind == "sqlite":
            return tmp_path_factory.mktemp("originals") / "o.sqlite3"
        return postgres.reset_database() if kind == "postgres" else redis.reset_database()

    return made


@pytest.fixture
def where(kind: str, fresh: Fresh) -> Path | str:
    return fresh(kind)


def _redis(url: str, user: str | None = None) -> Any:
    return Client(unix_socket_path=url.removeprefix("unix://"), username=user, password=user)


@asynccontextmanager
async def opened(
    where: Path | str, seconds: float = DAY, clock: Clock | None = None, **options: Any
) -> AsyncGenerator[Originals]:
    originals = Originals(where, seconds, clock or Clock(), **options)
    await originals.start()
    try:
        yield originals
    finally:
        await originals.stop()


@asynccontextmanager
async def broken(where: Path | str) -> AsyncGenerator[None]:
    """Let a store answer nothing but errors for a while."""
    renames = [f"ALTER TABLE {one} RENAME TO {other}" for one, other in (("originals", "x"), ("x", "originals"))]
    if isinstance(where, Path):
        with closing(sqlite3.connect(where)) as database:
            database.execute(renames[0])
            yield
            database.execute(renames[1])
    elif "postgres" in where:
        connection = await asyncpg.connect(where)
        await connection.execute(renames[0])
        yield
        await connection.execute(renames[1])
        await connection.close()
    else:
        with _redis(where) as client:
            client.execute_command("ACL SETUSER", "admin", "on", ">admin", "+@all", "~*")
        with _redis(where, "admin") as client:
            client.execute_command("ACL SETUSER", "default", "-@all")
            yield
            client.execute_command("ACL SETUSER", "default", "+@all")


async def count(originals: Originals) -> int:
    return len(await originals.list_entries(limit=1_000_000))


# names


@given(TEXT, TEXT)
def test_a_name_is_short_and_always_the_same(owner: str, text: str) -> None:
    assert re.fullmatch(rf"[0-9a-f]{{{NAME_LENGTH}}}", compute_name(owner, text))
    assert compute_name(owner, text) == compute_name(owner, text)


def test_a_name_is_the_same_on_every_machine() -> None:
    assert compute_name("owner", "text") == "d31d9a9731d45bb6"  # printf 'owner\0text' | sha256sum


@given(TEXT, TEXT, TEXT)
def test_owners_do_not_share_names(one: str, other: str, text: str) -> None:
    assert (compute_name(one, text) == compute_name(other, text)) == (one == other)


# the store

LONG = st.builds(str.__mul__, st.sampled_from(["ab\n", "\nb", "a"]), st.integers(2_000, 9_000))


@every_store
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(TEXT | LONG, max_size=5), other=st.text("abc", min_size=1, max_size=3))
def test_what_was_put_comes_back_to_its_owner_alone(fresh: Fresh, kind: str, texts: list[str], other: str) -> None:
    async def there_and_back() -> None:
        async with opened(place) as originals:
            names = await originals.put("owner", texts)
            assert names == [compute_name("owner", text) for text in texts]
            assert [await originals.get("owner", its_name) for its_name in names] == texts
            assert [await originals.get(f"owner{other}", its_name) for its_name in names] == [None] * len(texts)

    place = fresh(kind)
    asyncio.run(there_and_back())


@every_store
async def test_another_process_finds_it_as_soon_as_put_returns(where: Path | str) -> None:
    async with opened(where) as one, opened(where) as other:
        names = await one.put("owner", [f"text {number}" for number in range(200)])
        assert [await other.get("owner", its_name) for its_name in names] == [f"text {n}" for n in range(200)]


@every_store
async def test_putting_again_changes_nothing_but_the_expiry(where: Path | str) -> None:
    clock = Clock()
    async with opened(where, 100.0, clock) as originals:
        its_name = (await originals.put("owner", ["text", "text"]))[0]
        for _ in range(20):
            clock.now += 60.0
            await originals.put("owner", ["text"])
            assert await count(originals) == 1
        clock.now += 99.9
        assert await originals.get("owner", its_name) == "text"


@every_store
async def test_what_is_known_to_be_stored_costs_no_transaction(where: Path | str) -> None:
    clock = Clock()
    async with opened(where, 100.0, clock) as originals:
        await originals.put("owner", ["text"])
        async with broken(where):
            clock.now += 9.0
            await originals.put("owner", ["text"])
            clock.now += 2.0
            with pytest.raises(OriginalsError):
                await originals.put("owner", ["text"])


@every_store
@given(pauses=st.lists(st.floats(0.1, 300.0), max_size=12))
@settings(max_examples=15, deadline=None)
def test_a_text_can_be_had_for_as_long_as_was_promised(fresh: Fresh, kind: str, pauses: list[float]) -> None:
    async def wait_and_see() -> None:
        clock = Clock()
        text = uuid.uuid4().hex
        async with opened(place, 100.0, clock) as originals:
            for pause in pauses:
                await originals.put("owner", [text])
                await originals.store_note("owner", text, b"hidden")
                clock.now += pause
                await originals.delete_expired()
                found = await originals.get("owner", compute_name("owner", text))
                assert found == text or pause > 100.0
                assert found is None or pause < 111.0
                assert bool(await originals.read_notes("owner", [text])) == bool(found)

    place = fresh(kind)
    asyncio.run(wait_and_see())


async def test_what_has_expired_is_gone_and_wiped_from_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "o.sqlite3"
    async with opened(path, 100.0, clock) as originals:
        old = (await originals.put("owner", [os.urandom(200_000).hex()]))[0]
        await originals.delete_expired()
        full = path.stat().st_size + path.with_name("o.sqlite3-wal").stat().st_size
        clock.now += 60.0
        young = (await originals.put("owner", ["young"]))[0]
        clock.now += 60.0
        assert await originals.get("owner", old) is None
        assert await originals.delete_expired() == 1
        assert await originals.delete_expired() == 0
        assert await originals.get("owner", young) == "young"
        assert path.stat().st_size + path.with_name("o.sqlite3-wal").stat().st_size < full / 4


@every_store
async def test_what_has_expired_is_deleted_and_its_room_is_free(where: Path | str) -> None:
    clock = Clock()
    async with opened(where, 100.0, clock) as originals:
        await originals.put("owner", [os.urandom(20_000).hex() for _ in range(5)])
        clock.now += 60.0
        await originals.put("owner", ["young"])
        clock.now += 60.0
        assert (await originals.delete_expired(), await originals.delete_expired(), await count(originals)) == (5, 0, 1)
        assert await originals.delete_all() == 1


@pytest.mark.parametrize(
    "odd", ["", "x", "0" * (NAME_LENGTH - 1), "0" * NAME_LENGTH, "F" * NAME_LENGTH, "\ud800", "%' OR 1=1 --"]
)
@every_store
async def test_a_name_that_nobody_gave_finds_nothing(where: Path | str, odd: str) -> None:
    async with opened(where) as originals:
        await originals.put("owner", ["text"])
        assert await originals.get("owner", odd) is None


@every_store
async def test_puts_that_meet_are_all_stored(where: Path | str) -> None:
    async with opened(where) as originals:
        texts = [[f"{who} {number}" for number in range(who % 7)] for who in range(50)]
        names = await asyncio.gather(*(originals.put(str(who), some) for who, some in enumerate(texts)))
        assert await count(originals) == sum(map(len, texts))
        for who, some in enumerate(texts):
            assert [await originals.get(str(who), its_name) for its_name in names[who]] == some


@every_store
async def test_replicas_that_store_the_same_do_not_block_one_another(where: Path | str) -> None:
    clock = Clock()
    replicas = [Originals(where, 100.0, clock) for _ in range(4)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    texts = [f"text {number}" for number in range(60)]
    for _ in range(4):
        await asyncio.gather(
            *(replica.put("owner", texts[:: 1 if at % 2 else -1]) for at, replica in enumerate(replicas)),
            *(replica.delete_expired() for replica in replicas),
        )
        clock.now += 105.0
    assert await count(replicas[0]) == 60
    await asyncio.gather(*(replica.stop() for replica in replicas))


@every_store
async def test_a_caller_who_leaves_disturbs_no_other(where: Path | str) -> None:
    async with opened(where) as originals:
        leaving = asyncio.create_task(originals.put("a", ["one"]))
        staying = asyncio.create_task(originals.put("b", ["two"]))
        await asyncio.sleep(0)
        leaving.cancel()
        assert await originals.get("b", (await staying)[0]) == "two"
        assert (await asyncio.gather(leaving, return_exceptions=True))[0].__class__ is asyncio.CancelledError


@every_store
async def test_a_store_that_fails_is_told_and_not_remembered_as_stored(where: Path | str) -> None:
    async with opened(where) as originals:
        async with broken(where):
            with pytest.raises(OriginalsError, match="Error"):
                await originals.put("owner", ["text"])
            with pytest.raises(OriginalsError):
                await originals.get("owner", compute_name("owner", "text"))
            with pytest.raises(OriginalsError):
                await originals.read_notes("owner", ["place"])
        its_name = (await originals.put("owner", ["text"]))[0]
        assert await originals.get("owner", its_name) == "text"


@every_store
async def test_a_store_that_is_not_open_is_told(where: Path | str) -> None:
    originals = Originals(where, DAY)
    with pytest.raises(OriginalsError):
        await originals.put("owner", ["text"])
    await originals.start()
    await originals.stop()
    with pytest.raises(OriginalsError):
        await originals.put("owner", ["other"])


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1", "unix:///none/x.sock"])
async def test_a_server_that_is_not_there_is_told_without_its_address(url: str) -> None:
    originals = Originals(url, DAY)
    with pytest.raises(OriginalsError) as told:
        await originals.start()
    assert "127.0.0.1" not in str(told.value)
    await originals.stop()


@pytest.mark.parametrize("url", ["", "mysql://secret@x/y", "redis", "sqlite://x", "postgresql:x", "http://x"])
def test_a_store_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(OriginalsError, match="sqlite:///PATH") as told:
        Originals(url, DAY)
    assert "secret" not in str(told.value)


async def test_a_file_can_be_said_as_a_url(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'o.sqlite3'}") as originals:
        await originals.put("owner", ["text"])
    assert (tmp_path / "o.sqlite3").exists()


async def test_a_redis_that_would_evict_what_was_promised_is_refused() -> None:
    with servers.run_redis("--maxmemory", "8mb", "--maxmemory-policy", "volatile-lru") as server:
        url = server.url
        originals = Originals(url, DAY)
        with pytest.raises(OriginalsError, match="noeviction"):
            await originals.start()
        await originals.stop()
        with _redis(url) as client:
            client.execute_command("CONFIG SET", "maxmemory-policy", "noeviction")
        async with opened(url) as originals:
            with pytest.raises(OriginalsError):
                await originals.put("owner", [os.urandom(500_000).hex() for _ in range(20)])


async def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    originals = Originals(tmp_path / "file" / "o.sqlite3", DAY)
    with pytest.raises(OriginalsError):
        await originals.start()
    await originals.stop()


async def test_the_file_is_the_owner_s_alone_and_shows_no_text(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    async with opened(path) as originals:
        await originals.put("owner", ["x"])
        for suffix in ("", "-wal", "-shm"):
            assert path.with_name(path.name + suffix).lstat().st_mode & 0o777 == 0o600


# what is remembered


@every_store
@settings(max_examples=15, deadline=None)
@given(values=st.dictionaries(PRINTABLE, st.binary(max_size=200)), data=st.data())
def test_what_was_remembered_is_recalled_by_its_owner_alone(
    fresh: Fresh, kind: str, values: dict[str, bytes], data: st.DataObject
) -> None:
    async def there_and_back() -> None:
        async with opened(place) as originals:
            for its_name, value in values.items():
                await originals.store_note(owner, its_name, value)
            assert await originals.read_notes(owner, asked) == {one: values[one] for one in asked if one in values}
            assert await originals.read_notes(f"not {owner}", list(values)) == {}

    asked = data.draw(st.lists(st.sampled_from([*values, "absent"]), unique=True))
    owner = uuid.uuid4().hex
    place = fresh(kind)
    asyncio.run(there_and_back())


@every_store
async def test_the_first_word_stands_and_is_no_original(where: Path | str) -> None:
    async with opened(where) as originals:
        await originals.store_note("owner", "0" * NAME_LENGTH, b"first")
        await originals.store_note("owner", "0" * NAME_LENGTH, b"second")
        assert await originals.read_notes("owner", ["0" * NAME_LENGTH]) == {"0" * NAME_LENGTH: b"first"}
        assert await originals.get("owner", "0" * NAME_LENGTH) is None
    async with opened(where) as originals:
        await originals.store_note("owner", "0" * NAME_LENGTH, b"third")
        assert await originals.read_notes("owner", ["0" * NAME_LENGTH]) == {"0" * NAME_LENGTH: b"first"}


@every_store
async def test_what_is_recalled_is_kept_on(where: Path | str) -> None:
    clock = Clock()
    async with opened(where, 100.0, clock) as originals:
        await originals.store_note("owner", "place", b"hidden")
        for _ in range(5):
            clock.now += 60.0
            assert await originals.read_notes("owner", ["place"]) == {"place": b"hidden"}


# room


@every_store
async def test_what_was_promised_is_never_evicted_and_what_is_new_refused(where: Path | str) -> None:
    clock = Clock()
    texts = [os.urandom(20_000).hex() for _ in range(40)]
    async with opened(where, 100.0, clock, room=200_000) as originals:
        stored: list[str] = []
        refused: list[str] = []
        for text in texts:
            try:
                stored += await originals.put("owner", [text])
            except StoreFullError as error:
                refused += error.names
        assert refused == [compute_name("owner", text) for text in texts if compute_name("owner", text) not in stored]
        assert 4 <= len(stored) <= 12
        assert [await originals.get("owner", its_name) for its_name in stored] == [
            text for text in texts if compute_name("owner", text) in stored
        ]
        clock.now += 90.0
        assert await originals.put("owner", [text for text in texts if compute_name("owner", text) in stored]) == stored
        clock.now += 50.0  # the first expiry has passed, the second not
        with pytest.raises(StoreFullError):
            await originals.put("owner", [os.urandom(20_000).hex()])
        assert all([await originals.get("owner", its_name) for its_name in stored])


@every_store
async def test_what_has_expired_makes_room_without_being_asked(where: Path | str) -> None:
    clock = Clock()
    async with opened(where, 100.0, clock, room=200_000) as originals:
        for _ in range(8):
            await originals.put("owner", [os.urandom(20_000).hex() for _ in range(3)])
            clock.now += 111.0
        assert await originals._store.read_used_bytes() <= 200_000  # pyright: ignore[reportPrivateUsage]


@every_store
async def test_of_several_texts_those_that_fit_are_stored_and_the_rest_is_named(where: Path | str) -> None:
    small, large = ["small one", "small two"], os.urandom(400_000).hex()
    async with opened(where, room=200_000) as originals:
        with pytest.raises(StoreFullError) as told:
            await originals.put("owner", [small[0], large, small[1]])
        assert told.value.names == {compute_name("owner", large)}
        assert [await originals.get("owner", compute_name("owner", text)) for text in small] == small
        assert await originals.get("owner", compute_name("owner", large)) is None


@every_store
async def test_what_was_refused_stays_so_when_there_is_room_again(where: Path | str) -> None:
    clock = Clock()
    full, refused = os.urandom(100_000).hex(), os.urandom(120_000).hex()
    async with opened(where, 100.0, clock, room=200_000) as originals:
        await originals.put("owner", [full])
        with pytest.raises(StoreFullError):
            await originals.put("owner", [refused])
        await originals.delete_all()
        with pytest.raises(StoreFullError):
            await originals.put("owner", [refused])
        clock.now += 111.0
        await originals.put("owner", [refused])


@every_store
async def test_a_full_store_goes_on_promising_what_another_replica_stored(where: Path | str) -> None:
    clock = Clock()
    text = os.urandom(70_000).hex()
    async with (
        opened(where, 100.0, clock, room=200_000) as one,
        opened(where, 100.0, clock, room=200_000) as other,
    ):
        its_name = (await one.put("owner", [text]))[0]
        clock.now += 80.0
        assert await other.put("owner", [text]) == [its_name]
        clock.now += 80.0
        assert await one.get("owner", its_name) == text


@every_store
async def test_what_another_process_dropped_is_stored_anew(where: Path | str) -> None:
    async with opened(where) as serving, opened(where) as purging:
        for owner in (None, "a", "nobody", "a"):
            names = [found for (found,) in await asyncio.gather(*(serving.put(who, ["text"]) for who in ("a", "b")))]
            await serving.store_note("a", "place", b"hidden")
            assert [await serving.get(who, its_name) for who, its_name in zip("ab", names, strict=True)] == ["text"] * 2
            assert await serving.read_notes("a", ["place"])
            await purging.delete_all(owner)


# encryption

KEY_A, KEY_B = (base64.b64encode(bytes([number]) * 32).decode() for number in range(2))


async def raw(originals: Originals, owner: str, its_name: str) -> bytes:
    found = await originals._store.read_bodies(owner, [its_name], 0.0)  # pyright: ignore[reportPrivateUsage]
    return found[its_name]


@every_store
async def test_encrypted_originals_need_one_of_the_keys(where: Path | str) -> None:
    async with opened(where) as plain:
        before = (await plain.put("owner", ["in the clear"]))[0]
    async with opened(where, keys=[KEY_A]) as originals:
        its_name = (await originals.put("owner", ["secret " * 5]))[0]
        await originals.store_note("owner", "place", b"secret")
        stored = [await raw(originals, "owner", one) for one in (its_name, "~place")]
        assert not any(b"secret" in body for body in stored)
        assert await originals.get("owner", before) == "in the clear"
    async with opened(where, keys=[KEY_B, KEY_A]) as rotated:
        assert await rotated.get("owner", its_name) == "secret " * 5
        assert await rotated.read_notes("owner", ["place"]) == {"place": b"secret"}
    for keys in ([], [KEY_B]):
        async with opened(where, keys=keys) as other:
            with pytest.raises(OriginalsError, match="another key"):
                await other.get("owner", its_name)


async def test_an_encrypted_original_cannot_be_passed_off_as_another(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    async with opened(path, keys=[KEY_A]) as originals:
        mine, other = await originals.put("owner", ["mine", "other"])
        theirs = (await originals.put("else", ["theirs"]))[0]
        with closing(sqlite3.connect(path)) as database, database:
            body = "(SELECT body FROM originals AS o WHERE o.name = ?)"
            database.execute(f"UPDATE originals SET body = {body} WHERE name IN (?, ?)", (mine, other, theirs))
        assert await originals.get("owner", mine) == "mine"
        for owner, its_name in (("owner", other), ("else", theirs)):
            with pytest.raises(OriginalsError, match="damaged"):
                await originals.get(owner, its_name)


# kill -9

CHILD = """
import asyncio, sys
from pathlib import Path
from clara_proxy.proxy.stores.originals import Originals

async def main():
    where = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    originals = Originals(where, 86400)
    await originals.start()
    for number in range(10**9):
        names = await originals.put("owner", [f"{sys.argv[2]} {number} {part}" for part in range(5)])
        print(number, *names, flush=True)

asyncio.run(main())
"""


@every_store
async def test_kill_9_loses_nothing_that_put_has_returned(where: Path | str) -> None:
    for run in range(2):
        command = [sys.executable, "-c", CHILD, str(where), str(run)]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        said = [await child.stdout.readline()]
        await asyncio.sleep(0.3)
        os.kill(child.pid, 9)
        said += (await child.stdout.read()).splitlines(keepends=True)
        await child.wait()
        promised = [line.split() for line in said if line.endswith(b"\n")]
        assert len(promised) > 10
        async with opened(where) as originals:
            for number, *names in promised[-50:]:
                found = [await originals.get("owner", its_name.decode()) for its_name in names]
                assert found == [f"{run} {int(number)} {index}" for index in range(5)]
    if isinstance(where, Path):
        with closing(sqlite3.connect(where)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# for people


@every_store
async def test_what_is_held_can_be_listed_and_dropped_by_owner(where: Path | str) -> None:
    clock = Clock()
    async with opened(where, 100.0, clock) as originals:
        a = await originals.put("a", ["one", "two"])
        clock.now += 50.0
        b = await originals.put("b", ["three" * 500])
        held = await originals.list_entries()
        assert (held[0].owner, held[0].name) == ("b", b[0])
        assert {entry.name for entry in await originals.list_entries("a")} == set(a)
        assert [entry.owner for entry in await originals.list_entries(name=a[1])] == ["a"]
        assert len(await originals.list_entries(limit=2)) == 2
        assert held[0].expires == pytest.approx(clock.now + 110.0)
        assert 0 < held[0].size < 500
        clock.now += 80.0
        assert [entry.owner for entry in await originals.list_entries()] == ["b"]
        assert await originals.delete_all("b") == 1
        assert await originals.get("b", b[0]) is None
        await originals.put("b", ["three" * 500])  # it does not take for stored what it has dropped
        assert await originals.get("b", b[0]) == "three" * 500
        assert await originals.delete_all() == 3
