"""`clara-proxy doctor`: the results of its checks and their remedies."""

import asyncio
import json
import stat
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.config.extras import describe_install
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import doctor, serve
from clara_proxy.proxy.commands.doctor import Check
from clara_proxy.proxy.runtime import local_model
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.commands import shell

CLIENTS = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL")
PROXY_KEY, CLIENT_KEY = "sk-proxy", "sk-client"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLIENTS:
        monkeypatch.delenv(name, raising=False)


def run_checks(upstream: FaultyUpstream, folder: Path, **options: Any) -> dict[str, Check]:
    """Run all checks and return them by name."""
    default: dict[str, Any] = {
        "upstream_base_url": f"{upstream.url}/v1",
        "data_dir": folder,
        "port": 0,
        "model": "none",
    }
    return {check.name: check for check in asyncio.run(doctor.run_checks(Settings(**(default | options))))}


def list_failed(checks: dict[str, Check]) -> Sequence[str]:
    return [name for name, check in checks.items() if check.remedy]


def test_command_prints_results_and_remedies(upstream: FaultyUpstream, tmp_path: Path) -> None:
    environment = {"CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1", "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "0"}
    success = shell.run("doctor", **environment)
    assert (success.returncode, success.stderr) == (0, ""), success.stdout
    assert "FAIL" not in success.stdout
    checks = json.loads(shell.run("doctor", "--json", **environment).stdout)
    assert [check["name"] for check in checks][:2] == ["environment", "data directory"]
    broken = {"CLARA_UPSTREAM_BASE_URL": "http://127.0.0.1:1/v1", "CLARA_DATA_DIR": "/proc/none", "CLARA_PRT": "1"}
    failure = shell.run("doctor", **environment | broken)
    assert failure.returncode == 1
    for word in ("CLARA_PRT (did you mean CLARA_PORT?)", "CLARA_DATA_DIR", "CLARA_UPSTREAM_BASE_URL"):
        assert word in failure.stdout


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (http_response(b"{}", status="404 Not Found"), "usually ends in /v1"),
        (http_response(b"<html>", content_type="text/html"), "usually ends in /v1"),
        (
            http_response(b"", "location: https://me:hunter2@there/v1/models", status="301 Moved"),
            "redirects are not followed",
        ),
        (http_response(b"{}", status="503 Later"), "operator"),
        (http_response(b"{}", status="508 Loop Detected"), "CLARA_UPSTREAM_BASE_URL to the provider's address"),
    ],
)
def test_wrong_upstream_is_not_reported_as_a_wrong_key(
    upstream: FaultyUpstream, tmp_path: Path, answer: bytes, remedy: str
) -> None:
    upstream.respond_with(answer)
    checks = run_checks(upstream, tmp_path, upstream_api_key=PROXY_KEY)
    assert list_failed(checks) == ["upstream"]
    assert remedy in checks["upstream"].remedy
    assert "hunter2" not in checks["upstream"].result
    assert "API key" not in checks


@pytest.mark.parametrize(
    ("options", "environment", "sent_key", "result"),
    [
        ({"upstream_api_key": PROXY_KEY}, {"OPENAI_API_KEY": CLIENT_KEY}, PROXY_KEY, "CLARA_UPSTREAM_API_KEY"),
        ({}, {"OPENAI_API_KEY": CLIENT_KEY, "OPENAI_BASE_URL": "{}/v1"}, CLIENT_KEY, "OPENAI_API_KEY"),
        ({}, {"OPENAI_API_KEY": CLIENT_KEY}, None, "not tested"),
    ],
)
def test_key_is_sent_to_its_own_upstream_only(  # noqa: PLR0917 - a table of four columns
    upstream: FaultyUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, str],
    environment: dict[str, str],
    sent_key: str | None,
    result: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(upstream.url))
    checks = run_checks(upstream, tmp_path, **options)
    assert not list_failed(checks)
    assert result in checks["API key"].result
    assert upstream.last_request.header_values("authorization") == (
        [] if sent_key is None else [f"Bearer {sent_key}".encode()]
    )
    upstream.respond_with(http_response(b"{}", status="401 No"))
    checks = run_checks(upstream, tmp_path, **options)
    assert list_failed(checks) == ([] if sent_key is None else ["API key"])


def test_anthropic_is_checked_if_it_is_configured(upstream: FaultyUpstream, tmp_path: Path) -> None:
    assert "Anthropic" not in run_checks(upstream, tmp_path)
    options = {"anthropic_base_url": f"{upstream.url}/v1", "anthropic_api_key": PROXY_KEY}
    assert not list_failed(checks := run_checks(upstream, tmp_path, **options))
    assert "accepted" in checks["Anthropic API key"].result
    assert upstream.last_request.header_values("x-api-key") == [PROXY_KEY.encode()]
    assert upstream.last_request.header_values("anthropic-version")


def test_port_of_the_running_proxy_is_ok_but_not_of_another(upstream: FaultyUpstream, tmp_path: Path) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        checks = run_checks(upstream, tmp_path, port=int(proxy.url.rpartition(":")[2]))
        assert not list_failed(checks)
        assert "the proxy is running" in checks["port"].result
    checks = run_checks(upstream, tmp_path, port=int(upstream.url.rpartition(":")[2]))
    assert list_failed(checks) == ["port"]


def test_unprotected_address_is_reported(upstream: FaultyUpstream, tmp_path: Path) -> None:
    checks = run_checks(upstream, tmp_path, host="0.0.0.0")
    assert list_failed(checks) == ["access"]
    assert "keys create" in checks["access"].remedy
    assert not list_failed(run_checks(upstream, tmp_path, host="0.0.0.0", open=True))
    issue.create_key(tmp_path, "alice")
    assert not list_failed(run_checks(upstream, tmp_path, host="0.0.0.0"))
    assert list_failed(run_checks(upstream, tmp_path, host="192.0.2.7", open=True)) == ["port"]


def test_data_directory_is_created_for_its_owner_only(upstream: FaultyUpstream, tmp_path: Path) -> None:
    assert not list_failed(run_checks(upstream, tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert not list((tmp_path / "new").iterdir())


def test_full_disk_is_reported(upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - closed by the check

    def opened(**_: object) -> FileIO:
        return full

    monkeypatch.setattr("tempfile.TemporaryFile", opened)
    checks = run_checks(upstream, tmp_path)
    assert list_failed(checks) == ["data directory"]
    assert "No space left" in checks["data directory"].result
    assert "free space" in checks["data directory"].remedy


def test_existing_stores_are_checked(upstream: FaultyUpstream, tmp_path: Path) -> None:
    address = f"127.0.0.1:{find_free_port()}"
    options = {"ledger_url": f"postgresql://me:hunter2@{address}/x", "originals_url": f"redis://:hunter2@{address}"}
    checks = run_checks(upstream, tmp_path, **options)
    assert list_failed(checks) == ["ledger", "originals"]
    assert "hunter2" not in str(checks)
    with running.run_proxy(upstream.url, tmp_path):
        pass
    checks = run_checks(upstream, tmp_path)
    assert not list_failed(checks)
    assert {"ledger", "originals"} <= checks.keys()
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    checks = run_checks(upstream, tmp_path)
    assert list_failed(checks) == ["ledger"]
    assert "file is not a database" in checks["ledger"].result


def find_free_port() -> int:
    with serve.bind_socket("127.0.0.1", 0) as listener:
        listener.listen()
        return int(listener.getsockname()[1])


def test_configured_model_is_verified(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = run_checks(upstream, tmp_path, model=str(tmp_path / "none"), mode="answer")
    assert list_failed(checks) == ["CLaRa"]
    assert str(tmp_path / "none") in checks["CLaRa"].result
    checks = run_checks(upstream, tmp_path, mode="answer")
    assert list_failed(checks) == ["mode"]
    assert "CLARA_MODEL" in checks["mode"].result
    assert "clara-nano" in run_checks(upstream, tmp_path, model=None)["CLaRa"].result

    def absent(_: str) -> None:
        return None

    monkeypatch.setattr(local_model, "find_spec", absent)
    checks = run_checks(upstream, tmp_path, model="apple/CLaRa-7B-Instruct")
    assert list_failed(checks) == ["CLaRa"]
    assert describe_install("clara") in checks["CLaRa"].result
