"""`clara-proxy keys`, and what `serve` makes of there being none: exit codes, messages, both databases."""

import re
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clara_proxy.proxy.commands import cli, serve
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.servers import Postgres

Done = tuple[int, str, str]  # status, standard output, standard error
KEY = re.compile(r"sk-clara-[0-9a-f]{56}\n")


def run(*words: str, **environment: str) -> Done:
    """Run the command line, which here ends with a status and never with an exception of another kind."""
    done = CliRunner().invoke(cli.app, words, env=environment)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_keys_are_made_listed_and_revoked(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    where = {"CLARA_DATA_DIR": str(tmp_path / "new")}
    if kind == "postgres":
        where["CLARA_LEDGER_URL"] = postgres.reset_database()
    limits = ("--project", "search", "--tokens-per-day", "5000", "--days", "30")
    status, key, said = run("keys", "create", "alice", *limits, **where)
    assert status == 0
    assert KEY.fullmatch(key)  # alone, so that it can be piped
    assert "will not be shown again" in said
    assert key.strip() not in said
    others = ("--admin", "--dollars-per-day", "2.5", "--requests-per-minute", "60")
    assert run("keys", "create", "root", *others, **where)[0] == 0
    listed = run("keys", "list", **where)[1]
    alice, root = listed.splitlines()
    assert key.strip() not in listed
    assert alice.startswith(key[9:17])
    for told in ("alice", "until 20", "project search", "today 0 of 5,000 tokens", "$0.0000"):
        assert told in alice
    for other in ("root", "until it is revoked", "admin", "60 requests a minute", "$0.0000 of $2.50"):
        assert other in root
    assert run("keys", "revoke", "alice", **where) == (0, "alice is revoked\n", "")
    assert run("keys", "revoke", "alice", **where)[0] == 1
    assert "revoked 20" in run("keys", "list", **where)[1].splitlines()[0]
    status, _, said = run("keys", "revoke", root[:8], **where)
    assert status == 0
    assert "whoever is on this machine" in said


def test_what_makes_no_sense_is_said(tmp_path: Path) -> None:
    where = {"CLARA_DATA_DIR": str(tmp_path)}
    assert run("keys", "create", "alice", **where)[0] == 0
    for words in (("alice",), ("a b",), ("bob", "--days", "0"), ("bob", "--tokens-per-day", "-1"), ("x" * 65,)):
        assert run("keys", "create", *words, **where)[:2] == (2, ""), words
    assert "already" in run("keys", "create", "alice", **where)[2]


def test_without_keys_the_list_says_who_can_use_the_proxy(tmp_path: Path) -> None:
    status, listed, said = run("keys", "list", CLARA_DATA_DIR=str(tmp_path))
    assert (status, listed) == (0, "")
    assert "whoever is on this machine" in said


def test_a_database_that_cannot_be_used_is_said_without_its_password(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    for where in ({"CLARA_LEDGER_URL": "postgresql://me:hunter2@127.0.0.1:1/x"}, {"CLARA_DATA_DIR": str(tmp_path)}):
        for words, wanted in (("keys", "list"), 2), (("serve", "--host", "0.0.0.0"), 1):
            status, told, said = run(*words, **where)
            assert (status, told) == (wanted, "")
            assert said.startswith("clara-proxy: the ledger's database")
            assert "hunter2" not in said


def test_the_list_tells_what_was_used_today(tmp_path: Path) -> None:
    issue.create_key(tmp_path, "alice", tokens_per_day=1000)
    row = Row(id="r1", at=time.time(), key="alice", tokens_received=400, tokens_sent=400)
    issue.write_row(tmp_path, apply_bill(row, Usage(400, 50), None))
    assert "today 450 of 1,000 tokens" in run("keys", "list", CLARA_DATA_DIR=str(tmp_path))[1]


def test_it_does_not_listen_beyond_this_machine_without_keys_unless_told_to(tmp_path: Path) -> None:
    where = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_HOST": "0.0.0.0"}
    with serve.bind_socket("0.0.0.0", 0) as taken:  # so that a server that may listen ends at once, too
        where["CLARA_PORT"] = str(taken.getsockname()[1])
        status, _, said = run("serve", **where)
        assert status == 1
        for remedy in ("clara-proxy keys create", "127.0.0.1", "CLARA_OPEN=true"):
            assert remedy in said
        assert "cannot listen" in run("serve", CLARA_OPEN="true", **where)[2]
        assert run("keys", "create", "alice", **where)[0] == 0
        assert "cannot listen" in run("serve", **where)[2]
        assert run("keys", "revoke", "alice", **where)[0] == 0
        assert "CLARA_OPEN=true" in run("serve", **where)[2]
