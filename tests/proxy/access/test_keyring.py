"""The keys as a running proxy knows them: who made or revoked one elsewhere is heard, and budgets are shared."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.config.prices import Price
from clara_proxy.proxy.access import keyring
from clara_proxy.proxy.access.keyring import InvalidKeyError, Keyring
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX, KeyStore, create_key, parse_key_id
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.tests.servers import Postgres

PATIENCE = 10.0  # seconds until what must happen is missed
PRICE = Price(input=1e-3, output=1e-3)
both = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/l.sqlite3"
    server: Postgres = request.getfixturevalue("postgres")
    return server.reset_database()


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncGenerator[tuple[Keyring, KeyStore, Ledger]]:
    ledger = Ledger(url, flush_interval=0.01)
    await ledger.start()
    keys = KeyStore(ledger.engine, ledger.dialect)
    ring = Keyring(keys, ledger, refresh_seconds=0.02, **options)
    try:
        await ring.start()
        yield ring, keys, ledger
    finally:
        await ring.stop()
        await ledger.stop()


async def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


def knows(ring: Keyring, said: str) -> bool:
    try:
        return bool(ring.find_key(said))
    except InvalidKeyError:
        return False


@both
async def test_keys_that_are_made_and_revoked_elsewhere_are_noticed(url: str) -> None:
    said, key = create_key("alice", created=1.0)
    async with opened(url) as (here, _, _), opened(url) as (_, elsewhere, _):
        assert not here.requires_key
        await elsewhere.add(key)
        await until(lambda: here.requires_key)
        assert here.find_key(said) == key
        await elsewhere.revoke("alice", 2.0)
        await until(lambda: not here.requires_key)
        with pytest.raises(InvalidKeyError, match="the key alice was revoked"):
            here.find_key(said)


@both
async def test_keys_are_there_when_it_starts(url: str) -> None:
    said, key = create_key("alice", created=1.0)
    async with opened(url) as (_, keys, _):
        await keys.add(key)
    async with opened(url) as (ring, _, _):
        assert ring.requires_key
        assert ring.find_key(said) == key


async def test_a_key_expires_by_itself_and_leaves_the_door_shut(tmp_path: Path) -> None:
    now = [100.0]
    said, key = create_key("alice", created=1.0)
    async with opened(f"sqlite:///{tmp_path}/l", clock=lambda: now[0]) as (ring, keys, _):
        await keys.add(key._replace(expires=200.0))
        await until(lambda: ring.requires_key)
        assert ring.find_key(said).name == "alice"
        now[0] = 200.0
        with pytest.raises(InvalidKeyError, match="expired on 1970-01-01"):
            ring.find_key(said)
        assert ring.requires_key


async def test_a_wrong_key_is_no_key_and_is_not_repeated(tmp_path: Path) -> None:
    said, key = create_key("alice", created=1.0)
    async with opened(f"sqlite:///{tmp_path}/l") as (ring, keys, _):
        await keys.add(key)
        await until(lambda: ring.requires_key)
        wrong = [
            said[:-1],
            said + "0",
            said[:-1] + "x",
            KEY_PREFIX,
            "",
            parse_key_id(said),
            KEY_PREFIX + key.hash,
            key.hash,
            "\xff",
        ]
        for one in wrong:
            with pytest.raises(InvalidKeyError) as error:
                ring.find_key(one)
            assert str(error.value) == "this is no key of this proxy's"


async def test_hashes_are_compared_in_constant_time_whether_the_key_is_known_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[str, str]] = []
    original = hmac.compare_digest

    def compare(one: str, other: str) -> bool:
        compared.append((one, other))
        return original(one, other)

    said, key = create_key("alice", created=1.0)
    async with opened(f"sqlite:///{tmp_path}/l") as (ring, keys, _):
        await keys.add(key)
        await until(lambda: ring.requires_key)
        monkeypatch.setattr(hmac, "compare_digest", compare)
        assert [knows(ring, one) for one in (said, said[:-1] + "x", KEY_PREFIX + "0" * 56)] == [True, False, False]
    assert len(compared) == 3
    assert {len(part) for pair in compared for part in pair} == {64}
    assert said not in str(compared)


async def test_while_the_database_cannot_be_read_what_was_known_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said, key = create_key("alice", created=1.0)
    async with opened(f"sqlite:///{tmp_path}/l") as (ring, keys, _):
        await keys.add(key)
        await until(lambda: ring.requires_key)
        with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
            broken.setattr(keys, "changes", _fails)
            await until(lambda: bool(caplog.records))
            await asyncio.sleep(0.1)
            assert knows(ring, said)
            assert len(caplog.records) == 1
        await keys.revoke("alice", 2.0)
        await until(lambda: not knows(ring, said))


async def _fails() -> int:
    raise OSError("no such disk")


def spent(tokens: int, number: int, at: float) -> Row:
    one = Row(id=f"r{number}", at=at, key="alice", tokens_received=tokens, tokens_sent=tokens)
    return apply_bill(one, Usage(tokens, 0), PRICE)


@both
async def test_what_a_key_used_elsewhere_and_before_counts_here(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "USAGE_REFRESH_SECONDS", 0.0)
    now = time.time()
    key = create_key("alice", created=1.0)[1]._replace(tokens_per_day=100)
    async with opened(url) as (_, keys, ledger):
        await keys.add(key)
        ledger.write(spent(60, 1, now))
    async with opened(url) as (here, _, _), opened(url) as (there, _, ledger):
        assert here.limits.find_refusal(key, now) is None
        assert here.limits.find_refusal(key._replace(tokens_per_day=60), now) is not None
        ledger.write(spent(40, 2, now))
        refusal = there.limits.find_refusal(key, now)
        assert refusal is not None
        assert refusal.is_budget_spent
        await until(lambda: bool((told := here.limits.find_refusal(key, now)) and told.is_budget_spent))
