"""The command line in real processes: exit codes and messages."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import cli, serve
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


def test_invalid_setting_is_named_with_status_2() -> None:
    result = run("serve", CLARA_PORT="many")
    assert result.returncode == 2
    assert "CLARA_PORT" in result.stderr
    result = run("serve", "--mode", "loud")
    assert result.returncode == 2
    assert "CLARA_MODE" in result.stderr


def test_clara_server_takes_the_options_of_other_clara_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[Settings] = []

    def run_server(settings: Settings, *, reload: bool) -> None:
        assert reload
        started.append(settings)

    monkeypatch.setattr(cli, "_run_server", run_server)
    options = {"--host": "127.0.0.1", "--port": "9000", "--model": "owner/name", "--subfolder": "compression-128"}
    options |= {"--backend": "cpu", "--keep-alive": "-1", "--log-level": "WARNING"}
    monkeypatch.setenv("CLARA_CACHE", str(tmp_path))
    result = CliRunner().invoke(
        cli.clara_server_app, ["--reload", *(part for pair in options.items() for part in pair)]
    )
    assert result.exit_code == 0, result.output
    (settings,) = started
    assert (settings.port, settings.model, settings.subfolder) == (9000, "owner/name", "compression-128")
    assert (settings.backend, settings.keep_alive, settings.log_level) == ("cpu", -1, "warning")
    assert settings.cache == tmp_path
    scripts = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "scripts"
    ]
    assert scripts["clara-server"].rpartition(":")[2] == cli.main_clara_server.__name__


def test_help_lists_the_version_and_commands_in_order() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"clara-proxy {version('clara-proxy')}\n")
    help_text = run("--help").stdout
    positions = [
        help_text.index(f" {name} ") for name in ("serve", "demo", "wrap", "doctor", "report", "compress", "keys")
    ]
    assert positions == sorted(positions)
    serve_help = run("serve", "--help").stdout
    for mode in MODES:
        assert mode in serve_help


def test_help_of_a_command_names_its_arguments_and_no_type_of_a_flag() -> None:
    for command in (["show"], ["keys", "create"], ["train"], []):
        assert "<bool>" not in run(*command, "--help").stdout
    assert "WHICH" in run("keys", "revoke", "--help").stdout
    assert "[OPTIONS] [--] CMD [ARGS]..." in run("wrap", "--help").stdout


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with serve.bind_socket("127.0.0.1", 0) as listener:
        listener.listen()
        port = str(listener.getsockname()[1])
        result = run("serve", CLARA_PORT=port, CLARA_DATA_DIR=str(tmp_path))
    assert result.returncode == 1
    assert f"127.0.0.1:{port}" in result.stderr


def test_wrap_runs_a_client_and_reports_its_savings(upstream: str, tmp_path: Path) -> None:
    settings = {"CLARA_UPSTREAM_BASE_URL": upstream, "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "1"}
    result = run("wrap", "--", sys.executable, "-c", ASK, OPENAI_API_KEY="k", **settings)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "the disk is full"
    assert "Saved " in result.stderr
    report = run("report", "--since", "1h", "--by", "tool", "--format", "json", **settings)
    tools = {group["group"]: group for group in json.loads(report.stdout)["groups"]}
    assert tools["tail_log"]["saved"] > 1000
    assert "tail_log,1," in run("report", "--by", "tool", "--format", "csv", **settings).stdout


def test_wrap_returns_the_exit_status_of_the_command(upstream: str, tmp_path: Path) -> None:
    settings = {"CLARA_UPSTREAM_BASE_URL": upstream, "CLARA_DATA_DIR": str(tmp_path), "CLARA_PORT": "1"}
    assert run("wrap", "--", sys.executable, "-c", "raise SystemExit(7)", **settings).returncode == 7
    missing = run("wrap", "--", "no-such-command-anywhere", **settings)
    assert missing.returncode == 127
    assert "no-such-command-anywhere: command not found\n" in missing.stderr
    client = run("wrap", "claude", **settings, PATH="/nonexistent")
    assert "claude: command not found; install it with: npm install" in client.stderr
    refused = run("wrap", "--", str(Path(__file__)), **settings)
    assert (refused.returncode, "Permission denied" in refused.stderr) == (126, True)
    assert run("wrap", **settings).returncode == 2


def test_compress_reads_a_file_or_standard_input(tmp_path: Path) -> None:
    log = "\n".join(f"10:00:{n % 60:02d} INFO request {n} served" for n in range(400)) + "\nERROR disk full"
    (tmp_path / "app.log").write_text(log, encoding="utf-8")
    result = run("compress", str(tmp_path / "app.log"), "--query", "what failed?")
    assert result.returncode == 0
    assert "ERROR disk full" in result.stdout
    assert len(result.stdout) < len(log) / 2
    assert "tokens" in result.stderr
    assert run("compress", "-", "--query", "what failed?", text=log).stdout == result.stdout
    assert run("compress", "--query", "what failed?", text=log + "\n").stdout == result.stdout.rstrip("\n") + "\n"
    assert run("compress", text="short").stdout == "short"
    missing = run("compress", str(tmp_path / "missing"))
    assert (missing.returncode, missing.stderr) == (
        2,
        f"clara-proxy: cannot read {tmp_path}/missing: No such file or directory\n",
    )


def test_report_rejects_a_missing_ledger_and_invalid_dates(tmp_path: Path) -> None:
    result = run("report", CLARA_DATA_DIR=str(tmp_path))
    assert result.returncode == 2
    assert "no ledger" in result.stderr
    assert run("report", "--since", "soon", CLARA_DATA_DIR=str(tmp_path)).returncode == 2


def test_demo_finds_no_prefix_breaks() -> None:
    result = run("demo", "--turns", "12")
    assert result.returncode == 0, result.stderr
    assert "tau-bench" in result.stdout
    assert "clara-proxy report" in result.stdout


def test_reference_page_is_current_and_manual_page_is_complete() -> None:
    page = Path(__file__).parents[3] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == run("reference").stdout, "run: clara-proxy reference > docs/cli.md"
    manual = run("reference", "--man").stdout
    commands = re.findall(r"^##+ `(.+)`$", page.read_text(encoding="utf-8"), re.MULTILINE)
    groups = {command.rpartition(" ")[0] for command in commands}
    assert len(commands) > 20
    for command in commands:
        assert f".SS {command}\n" in manual or command in groups
    if groff := shutil.which("groff"):
        checked = subprocess.run([groff, "-man", "-ww", "-z"], input=manual, capture_output=True, text=True, check=True)
        assert checked.stderr == ""


def test_executable_opens_the_dashboard_when_double_clicked(tmp_path: Path) -> None:
    archive = tmp_path / "clara-proxy"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", "")
    assert cli.is_double_clicked([str(archive)], has_terminal=False)
    assert not cli.is_double_clicked([str(archive)], has_terminal=True)
    assert not cli.is_double_clicked([str(archive), "--version"], has_terminal=False)
    assert not cli.is_double_clicked([__file__], has_terminal=False)
