"""The contract of the originals: every test runs with SQLite, PostgreSQL and Redis."""

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

from clara_proxy.proxy.stores.originals import (
    NAME_LENGTH,
    Originals,
    OriginalsError,
    StoreFullError,
    StoreLateError,
    compute_name,
)
from clara_proxy.proxy.stores.originals_sqlite import SqliteStore
from clara_proxy.tests import servers
from clara_proxy.tests.servers import Postgres, Redis

TEXT = st.text(st.characters(codec=None))
PRINTABLE = st.text(st.characters(min_codepoint=32, codec="utf-8"), max_size=20)
DAY = 86_400.0
KINDS = ("sqlite", "postgres", "redis")
CreateLocation = Callable[[str], Path | str]
every_store = pytest.mark.parametrize("kind", KINDS)


class Clock:
    """A clock that begins at the current time, because Redis has its own clock."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="session")
def create_location(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres, redis: Redis) -> CreateLocation:
    """Return a function that creates an empty store and returns its location."""

    def create(kind: str) -> Path | str:
        if kind == "sqlite":
            return tmp_path_factory.mktemp("originals") / "o.sqlite3"
        return postgres.reset_database() if kind == "postgres" else redis.reset_database()

    return create


@pytest.fixture
def location(kind: str, create_location: CreateLocation) -> Path | str:
    return create_location(kind)


def _connect_redis(url: str, user: str | None = None) -> Any:
    return Client(unix_socket_path=url.removeprefix("unix://"), username=user, password=user)


@asynccontextmanager
async def open_originals(
    location: Path | str, seconds: float = DAY, clock: Clock | None = None, **options: Any
) -> AsyncGenerator[Originals]:
    originals = Originals(location, seconds, clock or Clock(), **options)
    await originals.start()
    try:
        yield originals
    finally:
        await originals.stop()


@asynccontextmanager
async def break_store(location: Path | str) -> AsyncGenerator[None]:
    """Let every access to a store fail within the block."""
    renames = [f"ALTER TABLE {old} RENAME TO {new}" for old, new in (("originals", "x"), ("x", "originals"))]
    if isinstance(location, Path):
        with closing(sqlite3.connect(location)) as database:
            database.execute(renames[0])
            yield
            database.execute(renames[1])
    elif "postgres" in location:
        connection = await asyncpg.connect(location)
        await connection.execute(renames[0])
        yield
        await connection.execute(renames[1])
        await connection.close()
    else:
        with _connect_redis(location) as client:
            client.execute_command("ACL SETUSER", "admin", "on", ">admin", "+@all", "~*")
        with _connect_redis(location, "admin") as client:
            client.execute_command("ACL SETUSER", "default", "-@all")
            yield
            client.execute_command("ACL SETUSER", "default", "+@all")


async def count_entries(originals: Originals) -> int:
    return len(await originals.list_entries(limit=1_000_000))


# names


@given(TEXT, TEXT)
def test_names_are_short_and_stable(owner: str, text: str) -> None:
    assert re.fullmatch(rf"[0-9a-f]{{{NAME_LENGTH}}}", compute_name(owner, text))
    assert compute_name(owner, text) == compute_name(owner, text)


def test_names_do_not_depend_on_the_machine() -> None:
    assert compute_name("owner", "text") == "d31d9a9731d45bb6"  # printf 'owner\0text' | sha256sum


@given(TEXT, TEXT, TEXT)
def test_owners_do_not_share_names(first: str, second: str, text: str) -> None:
    assert (compute_name(first, text) == compute_name(second, text)) == (first == second)


# the store

LONG = st.builds(str.__mul__, st.sampled_from(["ab\n", "\nb", "a"]), st.integers(2_000, 9_000))


@every_store
@settings(max_examples=15)
@given(texts=st.lists(TEXT | LONG, max_size=5), other=st.text("abc", min_size=1, max_size=3))
def test_only_the_owner_gets_a_stored_text(
    create_location: CreateLocation, kind: str, texts: list[str], other: str
) -> None:
    async def check() -> None:
        async with open_originals(store_location) as originals:
            names = await originals.put("owner", texts)
            assert names == [compute_name("owner", text) for text in texts]
            assert [await originals.get("owner", name) for name in names] == texts
            assert [await originals.get(f"owner{other}", name) for name in names] == [None] * len(texts)

    store_location = create_location(kind)
    asyncio.run(check())


@every_store
async def test_other_processes_see_texts_once_put_returns(location: Path | str) -> None:
    async with open_originals(location) as writer, open_originals(location) as reader:
        names = await writer.put("owner", [f"text {number}" for number in range(200)])
        assert [await reader.get("owner", name) for name in names] == [f"text {n}" for n in range(200)]


@every_store
async def test_a_repeated_put_only_extends_the_expiry(location: Path | str) -> None:
    clock = Clock()
    async with open_originals(location, 100.0, clock) as originals:
        name = (await originals.put("owner", ["text", "text"]))[0]
        for _ in range(20):
            clock.now += 60.0
            await originals.put("owner", ["text"])
            assert await count_entries(originals) == 1
        clock.now += 99.9
        assert await originals.get("owner", name) == "text"


@every_store
async def test_known_texts_cost_no_transaction(location: Path | str) -> None:
    clock = Clock()
    async with open_originals(location, 100.0, clock) as originals:
        await originals.put("owner", ["text"])
        async with break_store(location):
            clock.now += 9.0
            await originals.put("owner", ["text"])
            clock.now += 2.0
            with pytest.raises(OriginalsError):
                await originals.put("owner", ["text"])


@every_store
@given(pauses=st.lists(st.floats(0.1, 300.0), max_size=12))
@settings(max_examples=15)
def test_texts_can_be_fetched_until_they_expire(
    create_location: CreateLocation, kind: str, pauses: list[float]
) -> None:
    async def check() -> None:
        clock = Clock()
        text = uuid.uuid4().hex
        async with open_originals(store_location, 100.0, clock) as originals:
            for pause in pauses:
                await originals.put("owner", [text])
                await originals.store_note("owner", text, b"hidden")
                clock.now += pause
                await originals.delete_expired()
                original = await originals.get("owner", compute_name("owner", text))
                assert original == text or pause > 100.0
                assert original is None or pause < 111.0
                assert bool(await originals.read_notes("owner", [text])) == bool(original)

    store_location = create_location(kind)
    asyncio.run(check())


async def test_expired_texts_are_wiped_from_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "o.sqlite3"
    async with open_originals(path, 100.0, clock) as originals:
        expired = (await originals.put("owner", [os.urandom(200_000).hex()]))[0]
        await originals.delete_expired()
        full_size = path.stat().st_size + path.with_name("o.sqlite3-wal").stat().st_size
        clock.now += 60.0
        recent = (await originals.put("owner", ["young"]))[0]
        clock.now += 60.0
        assert await originals.get("owner", expired) is None
        assert await originals.delete_expired() == 1
        assert await originals.delete_expired() == 0
        assert await originals.get("owner", recent) == "young"
        assert path.stat().st_size + path.with_name("o.sqlite3-wal").stat().st_size < full_size / 4


@every_store
async def test_expired_texts_are_deleted_and_counted(location: Path | str) -> None:
    clock = Clock()
    async with open_originals(location, 100.0, clock) as originals:
        await originals.put("owner", [os.urandom(20_000).hex() for _ in range(5)])
        clock.now += 60.0
        await originals.put("owner", ["young"])
        clock.now += 60.0
        assert (await originals.delete_expired(), await originals.delete_expired(), await count_entries(originals)) == (
            5,
            0,
            1,
        )
        assert await originals.delete_all() == 1


@pytest.mark.parametrize(
    "name", ["", "x", "0" * (NAME_LENGTH - 1), "0" * NAME_LENGTH, "F" * NAME_LENGTH, "\ud800", "%' OR 1=1 --"]
)
@every_store
async def test_unknown_names_return_nothing(location: Path | str, name: str) -> None:
    async with open_originals(location) as originals:
        await originals.put("owner", ["text"])
        assert await originals.get("owner", name) is None


@every_store
async def test_concurrent_puts_are_all_stored(location: Path | str) -> None:
    async with open_originals(location) as originals:
        texts = [[f"{owner} {number}" for number in range(owner % 7)] for owner in range(50)]
        names = await asyncio.gather(*(originals.put(str(owner), batch) for owner, batch in enumerate(texts)))
        assert await count_entries(originals) == sum(map(len, texts))
        for owner, batch in enumerate(texts):
            assert [await originals.get(str(owner), name) for name in names[owner]] == batch


@every_store
async def test_replicas_storing_the_same_texts_do_not_deadlock(location: Path | str) -> None:
    clock = Clock()
    replicas = [Originals(location, 100.0, clock) for _ in range(4)]
    await asyncio.gather(*(replica.start() for replica in replicas))
    texts = [f"text {number}" for number in range(60)]
    for _ in range(4):
        await asyncio.gather(
            *(replica.put("owner", texts[:: 1 if index % 2 else -1]) for index, replica in enumerate(replicas)),
            *(replica.delete_expired() for replica in replicas),
        )
        clock.now += 105.0
    assert await count_entries(replicas[0]) == 60
    await asyncio.gather(*(replica.stop() for replica in replicas))


@every_store
async def test_a_cancelled_put_does_not_affect_others(location: Path | str) -> None:
    async with open_originals(location) as originals:
        cancelled = asyncio.create_task(originals.put("a", ["one"]))
        other = asyncio.create_task(originals.put("b", ["two"]))
        await asyncio.sleep(0)
        cancelled.cancel()
        assert await originals.get("b", (await other)[0]) == "two"
        assert (await asyncio.gather(cancelled, return_exceptions=True))[0].__class__ is asyncio.CancelledError


@every_store
async def test_a_failed_put_raises_and_is_retried(location: Path | str) -> None:
    async with open_originals(location) as originals:
        async with break_store(location):
            with pytest.raises(OriginalsError, match="Error"):
                await originals.put("owner", ["text"])
            with pytest.raises(OriginalsError):
                await originals.get("owner", compute_name("owner", "text"))
            with pytest.raises(OriginalsError):
                await originals.read_notes("owner", ["place"])
        name = (await originals.put("owner", ["text"]))[0]
        assert await originals.get("owner", name) == "text"


@every_store
async def test_a_store_that_is_not_open_raises(location: Path | str) -> None:
    originals = Originals(location, DAY)
    with pytest.raises(OriginalsError):
        await originals.put("owner", ["text"])
    await originals.start()
    await originals.stop()
    with pytest.raises(OriginalsError):
        await originals.put("owner", ["other"])


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1", "unix:///none/x.sock"])
async def test_errors_do_not_contain_the_address(url: str) -> None:
    originals = Originals(url, DAY)
    with pytest.raises(OriginalsError) as raised:
        await originals.start()
    assert "127.0.0.1" not in str(raised.value)
    await originals.stop()


@pytest.mark.parametrize("url", ["", "mysql://secret@x/y", "redis", "sqlite://x", "postgresql:x", "http://x"])
def test_unsupported_urls_are_rejected(url: str) -> None:
    with pytest.raises(OriginalsError, match="sqlite:///PATH") as raised:
        Originals(url, DAY)
    assert "secret" not in str(raised.value)


async def test_a_file_can_be_given_as_a_url(tmp_path: Path) -> None:
    async with open_originals(f"sqlite:///{tmp_path / 'o.sqlite3'}") as originals:
        await originals.put("owner", ["text"])
    assert (tmp_path / "o.sqlite3").exists()


async def test_a_redis_that_may_evict_originals_is_rejected() -> None:
    with servers.run_redis("--maxmemory", "8mb", "--maxmemory-policy", "volatile-lru") as server:
        url = server.url
        originals = Originals(url, DAY)
        with pytest.raises(OriginalsError, match="noeviction"):
            await originals.start()
        await originals.stop()
        with _connect_redis(url) as client:
            client.execute_command("CONFIG SET", "maxmemory-policy", "noeviction")
        async with open_originals(url) as originals:
            with pytest.raises(OriginalsError):
                await originals.put("owner", [os.urandom(500_000).hex() for _ in range(20)])


async def test_an_unwritable_path_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    originals = Originals(tmp_path / "file" / "o.sqlite3", DAY)
    with pytest.raises(OriginalsError):
        await originals.start()
    await originals.stop()


async def test_the_originals_file_is_readable_only_by_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    async with open_originals(path) as originals:
        await originals.put("owner", ["x"])
        for suffix in ("", "-wal", "-shm"):
            assert path.with_name(path.name + suffix).lstat().st_mode & 0o777 == 0o600


# notes


@every_store
@settings(max_examples=15)
@given(values=st.dictionaries(PRINTABLE, st.binary(max_size=200)), data=st.data())
def test_only_the_owner_gets_a_note(
    create_location: CreateLocation, kind: str, values: dict[str, bytes], data: st.DataObject
) -> None:
    async def check() -> None:
        async with open_originals(store_location) as originals:
            for name, value in values.items():
                await originals.store_note(owner, name, value)
            assert await originals.read_notes(owner, names) == {name: values[name] for name in names if name in values}
            assert await originals.read_notes(f"not {owner}", list(values)) == {}

    names = data.draw(st.lists(st.sampled_from([*values, "absent"]), unique=True))
    owner = uuid.uuid4().hex
    store_location = create_location(kind)
    asyncio.run(check())


@every_store
async def test_a_note_is_never_replaced_and_is_no_original(location: Path | str) -> None:
    async with open_originals(location) as originals:
        await originals.store_note("owner", "0" * NAME_LENGTH, b"first")
        await originals.store_note("owner", "0" * NAME_LENGTH, b"second")
        assert await originals.read_notes("owner", ["0" * NAME_LENGTH]) == {"0" * NAME_LENGTH: b"first"}
        assert await originals.get("owner", "0" * NAME_LENGTH) is None
    async with open_originals(location) as originals:
        await originals.store_note("owner", "0" * NAME_LENGTH, b"third")
        assert await originals.read_notes("owner", ["0" * NAME_LENGTH]) == {"0" * NAME_LENGTH: b"first"}


@every_store
async def test_reading_a_note_extends_its_expiry(location: Path | str) -> None:
    clock = Clock()
    async with open_originals(location, 100.0, clock) as originals:
        await originals.store_note("owner", "place", b"hidden")
        for _ in range(5):
            clock.now += 60.0
            assert await originals.read_notes("owner", ["place"]) == {"place": b"hidden"}


# capacity


@every_store
async def test_a_full_store_rejects_new_texts_and_evicts_none(location: Path | str) -> None:
    clock = Clock()
    texts = [os.urandom(20_000).hex() for _ in range(40)]
    async with open_originals(location, 100.0, clock, capacity=200_000) as originals:
        stored: list[str] = []
        refused: list[str] = []
        for text in texts:
            try:
                stored += await originals.put("owner", [text])
            except StoreFullError as error:
                refused += error.names
        assert refused == [compute_name("owner", text) for text in texts if compute_name("owner", text) not in stored]
        assert 4 <= len(stored) <= 12
        assert [await originals.get("owner", name) for name in stored] == [
            text for text in texts if compute_name("owner", text) in stored
        ]
        clock.now += 90.0
        assert await originals.put("owner", [text for text in texts if compute_name("owner", text) in stored]) == stored
        clock.now += 50.0  # only the first expiry has passed
        with pytest.raises(StoreFullError):
            await originals.put("owner", [os.urandom(20_000).hex()])
        assert all([await originals.get("owner", name) for name in stored])


@every_store
async def test_expired_texts_are_deleted_when_space_runs_short(location: Path | str) -> None:
    clock = Clock()
    async with open_originals(location, 100.0, clock, capacity=200_000) as originals:
        for _ in range(8):
            await originals.put("owner", [os.urandom(20_000).hex() for _ in range(3)])
            clock.now += 111.0
        assert await originals._store.read_used_bytes() <= 200_000  # pyright: ignore[reportPrivateUsage]


@every_store
async def test_texts_that_fit_are_stored_and_the_others_named(location: Path | str) -> None:
    small_texts, large = ["small one", "small two"], os.urandom(400_000).hex()
    async with open_originals(location, capacity=200_000) as originals:
        with pytest.raises(StoreFullError) as raised:
            await originals.put("owner", [small_texts[0], large, small_texts[1]])
        assert raised.value.names == {compute_name("owner", large)}
        assert [await originals.get("owner", compute_name("owner", text)) for text in small_texts] == small_texts
        assert await originals.get("owner", compute_name("owner", large)) is None


@every_store
async def test_refused_texts_stay_refused_for_a_while(location: Path | str) -> None:
    clock = Clock()
    stored, refused = os.urandom(100_000).hex(), os.urandom(120_000).hex()
    async with open_originals(location, 100.0, clock, capacity=200_000) as originals:
        await originals.put("owner", [stored])
        with pytest.raises(StoreFullError):
            await originals.put("owner", [refused])
        await originals.delete_all()
        with pytest.raises(StoreFullError):
            await originals.put("owner", [refused])
        clock.now += 111.0
        await originals.put("owner", [refused])


@every_store
async def test_a_full_store_renews_texts_of_other_replicas(location: Path | str) -> None:
    clock = Clock()
    text = os.urandom(70_000).hex()
    async with (
        open_originals(location, 100.0, clock, capacity=200_000) as first,
        open_originals(location, 100.0, clock, capacity=200_000) as second,
    ):
        name = (await first.put("owner", [text]))[0]
        clock.now += 80.0
        assert await second.put("owner", [text]) == [name]
        clock.now += 80.0
        assert await first.get("owner", name) == text


@every_store
async def test_texts_deleted_by_another_process_are_stored_again(location: Path | str) -> None:
    async with open_originals(location) as serving, open_originals(location) as purging:
        for owner in (None, "a", "nobody", "a"):
            names = [name for (name,) in await asyncio.gather(*(serving.put(client, ["text"]) for client in "ab"))]
            await serving.store_note("a", "place", b"hidden")
            assert [await serving.get(client, name) for client, name in zip("ab", names, strict=True)] == ["text"] * 2
            assert await serving.read_notes("a", ["place"])
            await purging.delete_all(owner)


# encryption

KEY_A, KEY_B = (base64.b64encode(bytes([number]) * 32).decode() for number in range(2))


async def read_stored_body(originals: Originals, owner: str, name: str) -> bytes:
    bodies = await originals._store.read_bodies(owner, [name], 0.0)  # pyright: ignore[reportPrivateUsage]
    return bodies[name]


@every_store
async def test_encrypted_originals_need_one_of_the_keys(location: Path | str) -> None:
    async with open_originals(location) as plain:
        unencrypted = (await plain.put("owner", ["in the clear"]))[0]
    async with open_originals(location, encryption_keys=[KEY_A]) as originals:
        name = (await originals.put("owner", ["secret " * 5]))[0]
        await originals.store_note("owner", "place", b"secret")
        stored = [await read_stored_body(originals, "owner", item) for item in (name, "~place")]
        assert not any(b"secret" in body for body in stored)
        assert await originals.get("owner", unencrypted) == "in the clear"
    async with open_originals(location, encryption_keys=[KEY_B, KEY_A]) as rotated:
        assert await rotated.get("owner", name) == "secret " * 5
        assert await rotated.read_notes("owner", ["place"]) == {"place": b"secret"}
    for keys in ([], [KEY_B]):
        async with open_originals(location, encryption_keys=keys) as other:
            with pytest.raises(OriginalsError, match="another key"):
                await other.get("owner", name)


async def test_an_encrypted_original_cannot_be_moved(tmp_path: Path) -> None:
    path = tmp_path / "o.sqlite3"
    async with open_originals(path, encryption_keys=[KEY_A]) as originals:
        source, target = await originals.put("owner", ["source", "target"])
        foreign = (await originals.put("else", ["foreign"]))[0]
        with closing(sqlite3.connect(path)) as database, database:
            body = "(SELECT body FROM originals AS o WHERE o.name = ?)"
            database.execute(f"UPDATE originals SET body = {body} WHERE name IN (?, ?)", (source, target, foreign))
        assert await originals.get("owner", source) == "source"
        for owner, name in (("owner", target), ("else", foreign)):
            with pytest.raises(OriginalsError, match="damaged"):
                await originals.get(owner, name)


# kill -9

CHILD = """
import asyncio, sys
from pathlib import Path
from clara_proxy.proxy.stores.originals import Originals

async def main():
    location = sys.argv[1] if "://" in sys.argv[1] else Path(sys.argv[1])
    originals = Originals(location, 86400)
    await originals.start()
    for number in range(10**9):
        names = await originals.put("owner", [f"{sys.argv[2]} {number} {part}" for part in range(5)])
        print(number, *names, flush=True)

asyncio.run(main())
"""


@every_store
async def test_kill_9_loses_no_stored_texts(location: Path | str) -> None:
    for run in range(2):
        command = [sys.executable, "-c", CHILD, str(location), str(run)]
        child = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        lines = [await child.stdout.readline()]
        await asyncio.sleep(0.3)
        os.kill(child.pid, 9)
        lines += (await child.stdout.read()).splitlines(keepends=True)
        await child.wait()
        stored = [line.split() for line in lines if line.endswith(b"\n")]
        assert len(stored) > 10
        async with open_originals(location) as originals:
            for number, *names in stored[-50:]:
                texts = [await originals.get("owner", name.decode()) for name in names]
                assert texts == [f"{run} {int(number)} {index}" for index in range(5)]
    if isinstance(location, Path):
        with closing(sqlite3.connect(location)) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# administration


@every_store
async def test_entries_can_be_listed_and_deleted_by_owner(location: Path | str) -> None:
    clock = Clock()
    async with open_originals(location, 100.0, clock) as originals:
        names_a = await originals.put("a", ["one", "two"])
        clock.now += 50.0
        names_b = await originals.put("b", ["three" * 500])
        entries = await originals.list_entries()
        assert (entries[0].owner, entries[0].name) == ("b", names_b[0])
        assert {entry.name for entry in await originals.list_entries("a")} == set(names_a)
        assert [entry.owner for entry in await originals.list_entries(name=names_a[1])] == ["a"]
        assert len(await originals.list_entries(limit=2)) == 2
        assert entries[0].expires == pytest.approx(clock.now + 110.0)
        assert 0 < entries[0].size < 500
        clock.now += 80.0
        assert [entry.owner for entry in await originals.list_entries()] == ["b"]
        assert await originals.delete_all("b") == 1
        assert await originals.get("b", names_b[0]) is None
        await originals.put("b", ["three" * 500])  # the deleted text is stored again
        assert await originals.get("b", names_b[0]) == "three" * 500
        assert await originals.delete_all() == 3


async def test_expired_entries_go_in_slices_while_others_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now = tmp_path / "originals.sqlite3", [1000.0]
    originals = Originals(path, 60, lambda: now[0])
    await originals.start()
    texts = [os.urandom(2**20).hex() for _ in range(12)]
    await originals.put("owner", texts)
    now[0] += 1000
    slices = list[int]()
    delete_rows = SqliteStore._delete_rows  # pyright: ignore[reportPrivateUsage]

    def count_slice(store: SqliteStore, until: float, owner: str | None) -> int:
        slices.append(delete_rows(store, until, owner))
        return slices[-1]

    monkeypatch.setattr(SqliteStore, "_delete_rows", count_slice)
    purge = asyncio.create_task(originals.delete_expired())
    await asyncio.sleep(0)
    names = await originals.put("owner", ["new"])
    assert not purge.done()
    assert await originals.get("owner", names[0]) == "new"
    assert await purge == 12
    assert len(slices) > 5
    assert max(slices) <= 3
    await originals.stop()
    assert path.stat().st_size < 4 * 2**20


async def test_a_put_that_is_late_names_its_texts_and_they_stay_refused(tmp_path: Path) -> None:
    path = tmp_path / "originals.sqlite3"
    originals = Originals(path, 60)
    await originals.start()
    await originals.put("owner", ["early"])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLateError) as error:
            await originals.put("owner", ["early", "late"], seconds=0.05)
        assert error.value.names == {compute_name("owner", "late")}
        assert await originals.get("owner", compute_name("owner", "early")) == "early"
        other.execute("ROLLBACK")
    with pytest.raises(StoreFullError):  # what was forwarded unchanged stays unchanged
        await originals.put("owner", ["late"], seconds=5)
    await originals.stop()
