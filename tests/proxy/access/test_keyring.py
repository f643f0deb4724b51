"""The keys of a running proxy follow other processes' changes, and budgets are shared."""

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
from clara_proxy.proxy.access.keyring import InvalidKeyError, Keyring
from clara_proxy.proxy.protocols.api_errors import ApiError
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.api_keys import KEY_PREFIX, KeyStore, create_key, parse_key_id
from clara_proxy.proxy.stores.key_usage import KeyUsage
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.tests.servers import Postgres

WAIT_SECONDS = 10.0  # seconds after which a wait fails
PRICE = Price(input=1e-3, output=1e-3)
both_databases = pytest.mark.parametrize("kind", ["sqlite", "postgres"])


@pytest.fixture
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return f"sqlite:///{tmp_path}/l.sqlite3"
    server: Postgres = request.getfixturevalue("postgres")
    return server.reset_database()


@asynccontextmanager
async def open_keyring(url: str, **options: Any) -> AsyncGenerator[tuple[Keyring, KeyStore, Ledger]]:
    ledger = Ledger(url, flush_interval=0.01)
    await ledger.start()
    keys = KeyStore(ledger.engine, ledger.dialect)
    key_ring = Keyring(keys, ledger, refresh_seconds=0.02, **options)
    try:
        await key_ring.start()
        yield key_ring, keys, ledger
    finally:
        await key_ring.stop()
        await ledger.stop()


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition stayed false"
        await asyncio.sleep(0.01)


def is_valid(key_ring: Keyring, secret: str) -> bool:
    try:
        return bool(key_ring.find_key(secret))
    except InvalidKeyError:
        return False


@both_databases
async def test_keys_created_and_revoked_by_other_processes_take_effect(url: str) -> None:
    secret, key = create_key("alice", created=1.0)
    async with open_keyring(url) as (here, _, _), open_keyring(url) as (_, elsewhere, _):
        assert not here.requires_key
        await elsewhere.add(key)
        await wait_until(lambda: here.requires_key)
        assert here.find_key(secret) == key
        await elsewhere.revoke("alice", 2.0)
        await wait_until(lambda: not here.requires_key)
        with pytest.raises(InvalidKeyError, match="the key 'alice' was revoked"):
            here.find_key(secret)


@both_databases
async def test_existing_keys_are_read_at_start(url: str) -> None:
    secret, key = create_key("alice", created=1.0)
    async with open_keyring(url) as (_, keys, _):
        await keys.add(key)
    async with open_keyring(url) as (key_ring, _, _):
        assert key_ring.requires_key
        assert key_ring.find_key(secret) == key


async def test_an_expired_key_is_rejected_and_still_requires_a_key(tmp_path: Path) -> None:
    now = [100.0]
    secret, key = create_key("alice", created=1.0)
    async with open_keyring(f"sqlite:///{tmp_path}/l", clock=lambda: now[0]) as (key_ring, keys, _):
        await keys.add(key._replace(expires=200.0))
        await wait_until(lambda: key_ring.requires_key)
        assert key_ring.find_key(secret).name == "alice"
        now[0] = 200.0
        with pytest.raises(InvalidKeyError, match="expired on 1970-01-01"):
            key_ring.find_key(secret)
        assert key_ring.requires_key


async def test_a_wrong_key_is_rejected_and_not_repeated(tmp_path: Path) -> None:
    secret, key = create_key("alice", created=1.0)
    async with open_keyring(f"sqlite:///{tmp_path}/l") as (key_ring, keys, _):
        await keys.add(key)
        await wait_until(lambda: key_ring.requires_key)
        wrong = [
            secret[:-1],
            secret + "0",
            secret[:-1] + "x",
            KEY_PREFIX,
            "",
            parse_key_id(secret),
            KEY_PREFIX + key.hash,
            key.hash,
            "\xff",
        ]
        for key_text in wrong:
            with pytest.raises(InvalidKeyError) as error:
                key_ring.find_key(key_text)
            assert str(error.value) == "the API key is unknown to this proxy"


async def test_known_and_unknown_keys_are_compared_in_constant_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparisons: list[tuple[str, str]] = []
    original = hmac.compare_digest

    def compare(first: str, second: str) -> bool:
        comparisons.append((first, second))
        return original(first, second)

    secret, key = create_key("alice", created=1.0)
    async with open_keyring(f"sqlite:///{tmp_path}/l") as (key_ring, keys, _):
        await keys.add(key)
        await wait_until(lambda: key_ring.requires_key)
        monkeypatch.setattr(hmac, "compare_digest", compare)
        assert [is_valid(key_ring, text) for text in (secret, secret[:-1] + "x", KEY_PREFIX + "0" * 56)] == [
            True,
            False,
            False,
        ]
    assert len(comparisons) == 3
    assert {len(part) for pair in comparisons for part in pair} == {64}
    assert secret not in str(comparisons)


async def test_keys_stay_valid_while_the_database_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret, key = create_key("alice", created=1.0)
    async with open_keyring(f"sqlite:///{tmp_path}/l") as (key_ring, keys, _):
        await keys.add(key)
        await wait_until(lambda: key_ring.requires_key)
        with monkeypatch.context() as broken, caplog.at_level(logging.ERROR):
            broken.setattr(keys, "read_version", _raise_os_error)
            await wait_until(lambda: bool(caplog.records))
            await asyncio.sleep(0.1)
            assert is_valid(key_ring, secret)
            assert len(caplog.records) == 1
        await keys.revoke("alice", 2.0)
        await wait_until(lambda: not is_valid(key_ring, secret))


async def _raise_os_error() -> int:
    raise OSError("no such disk")


def make_row(tokens: int, time_: float) -> Row:
    row = Row(id="r", at=time_, key="alice", tokens_received=tokens, tokens_sent=tokens)
    return apply_bill(row, Usage(tokens, 0), PRICE)


@both_databases
async def test_usage_that_only_the_ledger_knows_counts(url: str) -> None:
    key = create_key("alice", created=1.0)[1]._replace(tokens_per_day=100)
    async with open_keyring(url) as (_, keys, ledger):
        await keys.add(key)
        ledger.write(make_row(100, time.time()))
    async with open_keyring(url) as (here, _, _):
        meter, _ = await here.limits.admit(key)
        with pytest.raises(ApiError, match="has used up its budget of 100 tokens"):
            await here.limits.reserve(key, meter, KeyUsage(1, 0.0))
