"""The command line as a user meets it: real processes, exit codes, messages."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.app import create_app
from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.commands.demo.upstream import ScriptedUpstream

ASK = """
import openai
client = openai.OpenAI()
log = "\\n".join(f"10:00:{n % 60:02d} INFO request {n} served" for n in range(400)) + "\\nERROR disk full"
call = {"id": "c1", "type": "function", "function": {"name": "tail_log", "arguments": "{}"}}
messages = [
    {"role": "user", "content": "what failed?"},
    {"role": "assistant", "content": None, "tool_calls": [call]},
    {"role": "tool", "tool_call_id": "c1", "content": log},
]
print(client.chat.completions.create(model="gpt-4o", messages=messages).choices[0].message.content)
"""


def run(*arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from clara_proxy.proxy.commands.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "COLUMNS": "200", **environment},
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with serve.running(ScriptedUpstream(lambda _: {"role": "assistant", "content": "the disk is full"})) as url:
        yield f"{url}/v1"


def test_a_wrong_setting_names_itself_and_exits_with_2() -> None:
    done = run("serve", CLARA_PORT="many")
    assert done.returncode == 2
    assert "CLARA_PORT" in done.stderr
    done = run("serve", "--mode", "loud")
    assert done.returncode == 2
    assert "CLARA_MODE" in done.stderr


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with serve.bound("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", CLARA_PORT=port, CLARA_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr


def test_wrap_runs_a_real_client_behind_the_proxy_and_reports(upstream: str, tmp_path: Path) -> None:
    settings = {"CLARA_UPSTREAM_BASE_URL": upstream, "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "1"}
    done = run("wrap", "--", sys.executable, "-c", ASK, OPENAI_API_KEY="k", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "the disk is full"
    assert "gpt-4o" in done.stderr
    told = run("report", "--since", "1h", "--by", "tool", "--format", "json", **settings)
    tools = {group["group"]: group for group in json.loads(told.stdout)["groups"]}
    assert tools["tail_log"]["saved"] > 1000
    assert "tail_log,1," in run("report", "--by", "tool", "--format", "csv", **settings).stdout


def test_wrap_finds_a_proxy_that_runs_and_says_where_no_ledger_is(upstream: str, tmp_path: Path) -> None:
    running = create_app(Settings(upstream_base_url=upstream, data_dir=tmp_path / "theirs", log_level="error"))
    with serve.running(running) as url:
        settings = {"CLARA_PORT": url.rpartition(":")[2], "CLARA_DATA_DIR": str(tmp_path / "ours")}
        code = "import os; print(os.environ['OPENAI_BASE_URL'])"
        done = run("wrap", "--", sys.executable, "-c", code, **settings)
    assert done.returncode == 0
    assert done.stdout.strip() == f"{url}/v1"
    assert "there is no ledger in" in done.stderr


def test_wrap_passes_the_exit_status_on(upstream: str, tmp_path: Path) -> None:
    settings = {"CLARA_UPSTREAM_BASE_URL": upstream, "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "1"}
    assert run("wrap", "--", sys.executable, "-c", "raise SystemExit(7)", **settings).returncode == 7
    missing = run("wrap", "--", "no-such-command-anywhere", **settings)
    assert missing.returncode == 127
    assert "no-such-command-anywhere" in missing.stderr
    assert run("wrap", **settings).returncode == 2


def test_doctor_finds_what_is_wrong_and_says_what_to_do(upstream: str, tmp_path: Path) -> None:
    well = run("doctor", CLARA_UPSTREAM_BASE_URL=upstream, CLARA_DATA_DIR=str(tmp_path), CLARA_PORT="0")
    assert well.returncode == 0, well.stdout
    with serve.bound("127.0.0.1", 0) as unused:
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    ill = run("doctor", CLARA_UPSTREAM_BASE_URL=nobody, CLARA_DATA_DIR="/proc/none", CLARA_PORT="0", CLARA_PRT="1")
    assert ill.returncode == 1
    for word in ("CLARA_PRT", "CLARA_DATA_DIR", "CLARA_UPSTREAM_BASE_URL"):
        assert word in ill.stdout


def test_compress_shortens_a_file_and_standard_input(tmp_path: Path) -> None:
    log = "\n".join(f"10:00:{n % 60:02d} INFO request {n} served" for n in range(400)) + "\nERROR disk full"
    (tmp_path / "app.log").write_text(log, encoding="utf-8")
    done = run("compress", str(tmp_path / "app.log"), "--query", "what failed?")
    assert done.returncode == 0
    assert "ERROR disk full" in done.stdout
    assert len(done.stdout) < len(log) / 2
    assert "tokens" in done.stderr
    assert run("compress", "-", "--query", "what failed?", text=log).stdout == done.stdout
    assert run("compress", str(tmp_path / "missing")).returncode == 2


def test_report_without_a_ledger_or_with_nonsense_says_so(tmp_path: Path) -> None:
    done = run("report", CLARA_DATA_DIR=str(tmp_path))
    assert done.returncode == 2
    assert "no ledger" in done.stderr
    assert run("report", "--since", "soon", CLARA_DATA_DIR=str(tmp_path)).returncode == 2


def test_the_demonstration_shows_no_break_and_exits_with_0() -> None:
    done = run("demo", "--turns", "12")
    assert done.returncode == 0, done.stderr
    assert "tau-bench" in done.stdout
    assert "clara-proxy report" in done.stdout
