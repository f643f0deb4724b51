"""The command line as a user meets it: real processes, exit codes, messages."""

import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from clara_proxy.proxy.commands import serve
from clara_proxy.proxy.commands.demo.scripted_upstream import ScriptedUpstream
from clara_proxy.proxy.http.request_options import MODES
from clara_proxy.tests.proxy.commands.shell import run

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


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    with serve.run_in_thread(ScriptedUpstream(lambda _: {"role": "assistant", "content": "the disk is full"})) as url:
        yield f"{url}/v1"


def test_a_wrong_setting_names_itself_and_exits_with_2() -> None:
    done = run("serve", CLARA_PORT="many")
    assert done.returncode == 2
    assert "CLARA_PORT" in done.stderr
    done = run("serve", "--mode", "loud")
    assert done.returncode == 2
    assert "CLARA_MODE" in done.stderr


def test_new_people_find_the_version_and_what_they_need_first() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"clara-proxy {version('clara-proxy')}\n")
    listed = run("--help").stdout
    places = [listed.index(f" {name} ") for name in ("serve", "demo", "wrap", "doctor", "report", "compress", "keys")]
    assert places == sorted(places)
    serving = run("serve", "--help").stdout
    for mode in MODES:
        assert mode in serving


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with serve.bind_socket("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", CLARA_PORT=port, CLARA_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert f"127.0.0.1:{port}" in done.stderr


def test_wrap_runs_a_real_client_behind_the_proxy_and_reports(upstream: str, tmp_path: Path) -> None:
    settings = {"CLARA_UPSTREAM_BASE_URL": upstream, "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "1"}
    done = run("wrap", "--", sys.executable, "-c", ASK, OPENAI_API_KEY="k", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "the disk is full"
    assert "Saved " in done.stderr
    told = run("report", "--since", "1h", "--by", "tool", "--format", "json", **settings)
    tools = {group["group"]: group for group in json.loads(told.stdout)["groups"]}
    assert tools["tail_log"]["saved"] > 1000
    assert "tail_log,1," in run("report", "--by", "tool", "--format", "csv", **settings).stdout


def test_wrap_passes_the_exit_status_on(upstream: str, tmp_path: Path) -> None:
    settings = {"CLARA_UPSTREAM_BASE_URL": upstream, "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "1"}
    assert run("wrap", "--", sys.executable, "-c", "raise SystemExit(7)", **settings).returncode == 7
    missing = run("wrap", "--", "no-such-command-anywhere", **settings)
    assert missing.returncode == 127
    assert "no-such-command-anywhere" in missing.stderr
    assert run("wrap", **settings).returncode == 2


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
