"""`clara-proxy doctor`: every finding is so, and what is not well says what to do."""

import asyncio
import stat
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import doctor, serve
from clara_proxy.proxy.commands.doctor import Check
from clara_proxy.tests import running
from clara_proxy.tests.faulty import FaultyUpstream, http_response
from clara_proxy.tests.proxy import issue
from clara_proxy.tests.proxy.commands import shell

CLIENTS = ("OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_API_KEY", "ANTHROPIC_BASE_URL")
OURS, THEIRS = "sk-ours", "sk-theirs"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CLIENTS:
        monkeypatch.delenv(name, raising=False)


def checked(upstream: FaultyUpstream, folder: Path, **chosen: Any) -> dict[str, Check]:
    """Return the findings by name."""
    default: dict[str, Any] = {
        "upstream_base_url": f"{upstream.url}/v1",
        "data_dir": folder,
        "port": 0,
        "model": "none",
    }
    return {check.name: check for check in asyncio.run(doctor.run_checks(Settings(**(default | chosen))))}


def ill(found: dict[str, Check]) -> Sequence[str]:
    return [name for name, check in found.items() if check.remedy]


def test_the_command_says_it_all_and_what_to_do(upstream: FaultyUpstream, tmp_path: Path) -> None:
    where = {"CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1", "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "0"}
    well = shell.run("doctor", **where)
    assert (well.returncode, well.stderr) == (0, ""), well.stdout
    assert "FAIL" not in well.stdout
    nobody = {"CLARA_UPSTREAM_BASE_URL": "http://127.0.0.1:1/v1", "CLARA_DATA_DIR": "/proc/none", "CLARA_PRT": "1"}
    done = shell.run("doctor", **where | nobody)
    assert done.returncode == 1
    for word in ("CLARA_PRT", "CLARA_DATA_DIR", "CLARA_UPSTREAM_BASE_URL"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http_response(b"{}", status="404 Not Found"), "usually ends in /v1"),
        (http_response(b"<html>", content_type="text/html"), "usually ends in /v1"),
        (
            http_response(b"", "location: https://me:hunter2@there/v1/models", status="301 Moved"),
            "redirects are not followed",
        ),
        (http_response(b"{}", status="503 Later"), "operator"),
    ],
)
def test_an_upstream_that_is_none_is_not_taken_for_a_wrong_key(
    upstream: FaultyUpstream, tmp_path: Path, answer: bytes, said: str
) -> None:
    upstream.respond_with(answer)
    found = checked(upstream, tmp_path, upstream_api_key=OURS)
    assert ill(found) == ["upstream"]
    assert said in found["upstream"].remedy
    assert "hunter2" not in found["upstream"].result
    assert "key" not in found


@pytest.mark.parametrize(
    ("chosen", "environment", "shown", "named"),
    [
        ({"upstream_api_key": OURS}, {"OPENAI_API_KEY": THEIRS}, OURS, "CLARA_UPSTREAM_API_KEY"),
        ({}, {"OPENAI_API_KEY": THEIRS, "OPENAI_BASE_URL": "{}/v1"}, THEIRS, "OPENAI_API_KEY"),
        ({}, {"OPENAI_API_KEY": THEIRS}, None, "none was tried"),
    ],
)
def test_a_key_is_tried_where_it_is_meant_to_go_and_nowhere_else(  # noqa: PLR0917 - a table of four columns
    upstream: FaultyUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chosen: dict[str, str],
    environment: dict[str, str],
    shown: str | None,
    named: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(upstream.url))
    found = checked(upstream, tmp_path, **chosen)
    assert not ill(found)
    assert named in found["key"].result
    assert upstream.last_request.header_values("authorization") == (
        [] if shown is None else [f"Bearer {shown}".encode()]
    )
    upstream.respond_with(http_response(b"{}", status="401 No"))
    found = checked(upstream, tmp_path, **chosen)
    assert ill(found) == ([] if shown is None else ["key"])


def test_anthropic_is_asked_where_somebody_said_something_about_it(upstream: FaultyUpstream, tmp_path: Path) -> None:
    assert "Anthropic" not in checked(upstream, tmp_path)
    said = {"anthropic_base_url": f"{upstream.url}/v1", "anthropic_api_key": OURS}
    assert not ill(found := checked(upstream, tmp_path, **said))
    assert "accepted" in found["Anthropic's key"].result
    assert upstream.last_request.header_values("x-api-key") == [OURS.encode()]
    assert upstream.last_request.header_values("anthropic-version")


def test_a_port_where_the_proxy_runs_is_well_and_another_servers_is_not(
    upstream: FaultyUpstream, tmp_path: Path
) -> None:
    with running.run_proxy(upstream.url, tmp_path) as proxy:
        found = checked(upstream, tmp_path, port=int(proxy.url.rpartition(":")[2]))
        assert not ill(found)
        assert "the proxy is running" in found["port"].result
    found = checked(upstream, tmp_path, port=int(upstream.url.rpartition(":")[2]))
    assert ill(found) == ["port"]


def test_an_address_that_the_proxy_would_refuse_is_said(upstream: FaultyUpstream, tmp_path: Path) -> None:
    found = checked(upstream, tmp_path, host="0.0.0.0")
    assert ill(found) == ["access"]
    assert "keys create" in found["access"].remedy
    assert not ill(checked(upstream, tmp_path, host="0.0.0.0", open=True))
    issue.create_key(tmp_path, "alice")
    assert not ill(checked(upstream, tmp_path, host="0.0.0.0"))
    assert ill(checked(upstream, tmp_path, host="192.0.2.7", open=True)) == ["port"]


def test_a_data_directory_is_made_for_its_owner_alone(upstream: FaultyUpstream, tmp_path: Path) -> None:
    assert not ill(checked(upstream, tmp_path / "new"))
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert not list((tmp_path / "new").iterdir())


def test_a_disk_without_room_is_not_writable(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the doctor closes it

    def opened(**_: object) -> FileIO:
        return full

    monkeypatch.setattr("tempfile.TemporaryFile", opened)
    found = checked(upstream, tmp_path)
    assert ill(found) == ["data directory"]
    assert "No space left" in found["data directory"].result
    assert "make room" in found["data directory"].remedy


def test_stores_are_looked_at_where_there_are_some(upstream: FaultyUpstream, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{unused()}"
    chosen = {"ledger_url": f"postgresql://me:hunter2@{nobody}/x", "originals_url": f"redis://:hunter2@{nobody}"}
    found = checked(upstream, tmp_path, **chosen)
    assert ill(found) == ["ledger", "originals"]
    assert "hunter2" not in str(found)
    with running.run_proxy(upstream.url, tmp_path):
        pass
    found = checked(upstream, tmp_path)
    assert not ill(found)
    assert {"ledger", "originals"} <= found.keys()
    (tmp_path / "ledger.sqlite3").write_bytes(b"no database" * 1000)
    found = checked(upstream, tmp_path)
    assert ill(found) == ["ledger"]
    assert "file is not a database" in found["ledger"].result


def unused() -> int:
    with serve.bind_socket("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


def test_a_model_that_was_chosen_is_looked_at(
    upstream: FaultyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checked(upstream, tmp_path, model=str(tmp_path / "none"), mode="answer")
    assert ill(found) == ["CLaRa"]
    assert str(tmp_path / "none") in found["CLaRa"].result
    found = checked(upstream, tmp_path, mode="answer")
    assert ill(found) == ["mode"]
    assert "CLARA_MODEL" in found["mode"].result
    assert "clara-nano" in checked(upstream, tmp_path, model=None)["CLaRa"].result

    def absent(_: str) -> None:
        return None

    monkeypatch.setattr(doctor, "find_spec", absent)
    found = checked(upstream, tmp_path, model="apple/CLaRa-7B-Instruct")
    assert ill(found) == ["CLaRa"]
    assert "clara-proxy[clara]" in found["CLaRa"].remedy
