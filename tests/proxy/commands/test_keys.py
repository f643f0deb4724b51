"""`clara-proxy keys`, and `serve` without keys: exit codes and messages, with both databases."""

import json
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

Result = tuple[int, str, str]  # status, standard output, standard error
KEY = re.compile(r"sk-clara-[0-9a-f]{56}\n")


def run(*arguments: str, **environment: str) -> Result:
    """Run the command line; it must end with a status and not with another exception."""
    result = CliRunner().invoke(cli.app, arguments, env=environment)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_keys_can_be_created_listed_and_revoked(kind: str, tmp_path: Path, postgres: Postgres) -> None:
    environment = {"CLARA_DATA_DIR": str(tmp_path / "new")}
    if kind == "postgres":
        environment["CLARA_LEDGER_URL"] = postgres.reset_database()
    limits = ("--project", "search", "--tokens-per-day", "5000", "--days", "30")
    status, key, stderr = run("keys", "create", "alice", *limits, **environment)
    assert status == 0
    assert KEY.fullmatch(key)  # alone, so that it can be piped
    assert "will not be shown again" in stderr
    assert key.strip() not in stderr
    others = ("--admin", "--dollars-per-day", "2.5", "--requests-per-minute", "60")
    assert run("keys", "create", "root", *others, **environment)[0] == 0
    stdout = run("keys", "list", **environment)[1]
    alice, root = stdout.splitlines()
    assert key.strip() not in stdout
    assert alice.startswith(key[9:17])
    for stdout in ("alice", "until 20", "project search", "today 0 of 5,000 tokens", "$0.0000"):
        assert stdout in alice
    for other in ("root", "until revoked", "admin", "60 requests a minute", "$0.0000 of $2.50"):
        assert other in root
    assert run("keys", "revoke", "alice", **environment) == (0, "alice is revoked\n", "")
    assert run("keys", "revoke", "alice", **environment)[0] == 1
    assert "revoked 20" in run("keys", "list", **environment)[1].splitlines()[0]
    status, _, stderr = run("keys", "revoke", root[:8], **environment)
    assert status == 0
    assert "every program on this machine" in stderr


def test_invalid_arguments_are_rejected(tmp_path: Path) -> None:
    environment = {"CLARA_DATA_DIR": str(tmp_path)}
    assert run("keys", "create", "alice", **environment)[0] == 0
    for arguments in (("alice",), ("a b",), ("bob", "--days", "0"), ("bob", "--tokens-per-day", "-1"), ("x" * 65,)):
        assert run("keys", "create", *arguments, **environment)[:2] == (2, ""), arguments
    assert "already" in run("keys", "create", "alice", **environment)[2]


def test_list_without_keys_warns_about_open_access(tmp_path: Path) -> None:
    status, stdout, stderr = run("keys", "list", CLARA_DATA_DIR=str(tmp_path))
    assert (status, stdout) == (0, "")
    assert "every program on this machine" in stderr
    assert "no valid key" in run("keys", "revoke", "alice", CLARA_DATA_DIR=str(tmp_path))[2]
    assert not list(tmp_path.iterdir())  # no ledger was created


def test_database_errors_do_not_print_the_password(tmp_path: Path) -> None:
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    for environment in (
        {"CLARA_LEDGER_URL": "postgresql://me:hunter2@127.0.0.1:1/x"},
        {"CLARA_DATA_DIR": str(tmp_path)},
    ):
        for arguments, expected in (("keys", "list"), 2), (("serve", "--host", "0.0.0.0"), 1):
            status, stdout, stderr = run(*arguments, **environment)
            assert (status, stdout) == (expected, "")
            assert stderr.startswith("clara-proxy: the ledger's database")
            assert "hunter2" not in stderr


def test_list_shows_the_usage_of_today(tmp_path: Path) -> None:
    issue.create_key(tmp_path, "alice", tokens_per_day=1000)
    row = Row(id="r1", at=time.time(), key="alice", tokens_received=400, tokens_sent=400)
    issue.write_row(tmp_path, apply_bill(row, Usage(400, 50), None))
    assert "today 450 of 1,000 tokens" in run("keys", "list", CLARA_DATA_DIR=str(tmp_path))[1]
    [key] = json.loads(run("keys", "list", "--json", CLARA_DATA_DIR=str(tmp_path))[1])
    assert (key["name"], key["tokens_per_day"], key["tokens_today"]) == ("alice", 1000, 450)
    assert "hash" not in key


def test_serve_refuses_other_machines_without_keys(tmp_path: Path) -> None:
    environment = {"CLARA_DATA_DIR": str(tmp_path), "CLARA_HOST": "0.0.0.0"}
    with serve.bind_socket("0.0.0.0", 0) as listener:  # makes a server that may listen fail at once
        listener.listen()
        environment["CLARA_PORT"] = str(listener.getsockname()[1])
        status, _, stderr = run("serve", **environment)
        assert status == 1
        for remedy in ("clara-proxy keys create", "127.0.0.1", "CLARA_OPEN=true"):
            assert remedy in stderr
        assert "cannot listen" in run("serve", CLARA_OPEN="true", **environment)[2]
        assert run("keys", "create", "alice", **environment)[0] == 0
        assert "cannot listen" in run("serve", **environment)[2]
        assert run("keys", "revoke", "alice", **environment)[0] == 0
        assert "CLARA_OPEN=true" in run("serve", **environment)[2]
