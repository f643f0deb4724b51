"""What `wrap` and `doctor CLIENT` set for the clients that they know."""

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import cli, client_setup, clients, doctor
from clara_proxy.proxy.commands.client_setup import Setup
from clara_proxy.tests.faulty import FaultyUpstream
from clara_proxy.tests.proxy.commands import shell

URL, ANTHROPIC = "http://127.0.0.1:9", "https://api.anthropic.com/v1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, which is the current directory, too."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prepare(home: Path, *command: str, **environment: str) -> Setup:
    return client_setup.prepare(command, {"HOME": str(home), **environment})


def write(path: Path, content: str | dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def test_any_command_gets_the_generic_addresses(home: Path) -> None:
    setup = prepare(home, "make", "agent", OPENAI_API_BASE="http://mine/v1", ANTHROPIC_BASE_URL="http://claude")
    assert setup.build_variables(URL, ANTHROPIC) == {
        "OPENAI_BASE_URL": f"{URL}/v1",
        "OPENAI_API_BASE": f"{URL}/v1",
        "ANTHROPIC_BASE_URL": URL,
    }
    assert setup.upstreams == {"upstream_base_url": "http://mine/v1", "anthropic_base_url": "http://claude/v1"}
    assert setup.build_command(URL) == ["make", "agent"]


@pytest.mark.parametrize("client", clients.CLIENTS.values(), ids=lambda client: client.command)
def test_every_address_of_a_client_leads_to_the_proxy_and_is_its_upstream(home: Path, client: clients.Client) -> None:
    for address in client.addresses:
        setup = prepare(home, f"/opt/bin/{client.command}", **{address.variable: "https://mine.example/v1"})
        assert setup.build_variables(URL, ANTHROPIC)[address.variable] in (URL, f"{URL}/v1")
        assert setup.upstreams == {clients.UPSTREAM_SETTINGS[address.api]: "https://mine.example/v1"}


def test_claude_code_behaves_as_without_a_proxy_if_the_upstream_is_anthropic(home: Path) -> None:
    setup = prepare(home, "claude", "-p", "hello")
    assert setup.build_variables(URL, ANTHROPIC)["ENABLE_TOOL_SEARCH"] == "true"
    assert "ENABLE_TOOL_SEARCH" not in setup.build_variables(URL, "https://gateway.example/v1")
    own = prepare(home, "claude", ENABLE_TOOL_SEARCH="auto:5")
    assert own.build_variables(URL, ANTHROPIC)["ENABLE_TOOL_SEARCH"] == "auto:5"


def test_a_settings_file_of_claude_code_names_the_upstream(home: Path) -> None:
    write(home / ".claude" / "settings.json", {"env": {"ANTHROPIC_BASE_URL": "https://gateway.example"}})
    setup = prepare(home, "claude", "-p", "hello")
    assert setup.upstreams == {"anthropic_base_url": "https://gateway.example/v1"}
    settings = {"env": {"ANTHROPIC_BASE_URL": URL}}
    assert setup.build_command(URL) == ["claude", "--settings", json.dumps(settings), "-p", "hello"]
    assert prepare(home, "claude", "--settings", "{}").problems
    assert prepare(home, "claude", CLAUDE_CODE_USE_BEDROCK="1").problems


def test_codex_gets_its_address_as_an_argument(home: Path) -> None:
    setup = prepare(home, "codex", "exec", "hello", CODEX_API_KEY="sk-1")
    assert setup.build_command(URL) == ["codex", "-c", f'openai_base_url="{URL}/v1"', "exec", "hello"]
    assert setup.upstreams == {}
    own = prepare(home, "codex", "-c", 'openai_base_url="http://mine/v1"')
    assert own.arguments == []
    assert own.problems


def test_the_provider_in_the_configuration_of_codex_is_routed(home: Path) -> None:
    write(
        home / ".codex" / "config.toml",
        'model_provider = "mine"\nopenai_base_url = "http://other/v1"\n[profiles.plain]\nmodel_provider = "openai"\n'
        '[model_providers.mine]\nbase_url = "http://mine/v1"\n',
    )
    setup = prepare(home, "codex")
    assert setup.arguments == ["-c", 'model_providers.mine.base_url="{url}/v1"']
    assert setup.upstreams == {"upstream_base_url": "http://mine/v1"}
    assert prepare(home, "codex", "-p", "plain").upstreams == {"upstream_base_url": "http://other/v1"}


def test_a_login_of_codex_goes_to_its_own_upstream(home: Path) -> None:
    write(home / ".codex" / "auth.json", {"OPENAI_API_KEY": None, "tokens": {"access_token": "a"}})
    assert prepare(home, "codex").upstreams == {"upstream_base_url": client_setup.CHATGPT_URL}
    write(home / ".codex" / "auth.json", {"OPENAI_API_KEY": "sk-1"})
    assert prepare(home, "codex").upstreams == {}


def test_opencode_routes_the_providers_that_have_a_key(home: Path) -> None:
    assert "OPENCODE_CONFIG_CONTENT" not in prepare(home, "opencode").variables
    own = {"theme": "dark", "provider": {"openai": {"options": {"timeout": 5}}}}
    setup = prepare(home, "opencode", OPENAI_API_KEY="sk-1", OPENCODE_CONFIG_CONTENT=json.dumps(own))
    content = json.loads(setup.build_variables(URL, ANTHROPIC)["OPENCODE_CONFIG_CONTENT"])
    options = {"timeout": 5, "baseURL": f"{URL}/v1"}
    assert content == {"theme": "dark", "provider": {"openai": {"options": options}}}


def test_a_key_of_opencode_never_reaches_another_provider(home: Path) -> None:
    mine = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": "http://mine/v1"}}
    write(home / "opencode.json", {"provider": {"mine": mine}})
    alone = prepare(home, "opencode")
    assert alone.upstreams == {"upstream_base_url": "http://mine/v1"}
    both = prepare(home, "opencode", OPENAI_API_KEY="sk-1")
    assert both.problems
    assert "OPENCODE_CONFIG_CONTENT" not in both.variables
    assert both.upstreams == {}
    chosen = prepare(home, "opencode", "run", "-m", "mine/llama", OPENAI_API_KEY="sk-1")
    assert json.loads(chosen.variables["OPENCODE_CONFIG_CONTENT"])["provider"].keys() == {"mine"}
    assert chosen.upstreams == {"upstream_base_url": "http://mine/v1"}


def test_addresses_in_yaml_files_are_the_upstreams(home: Path) -> None:
    write(home / ".aider.conf.yml", "openai-api-base: http://mine/v1\n")
    assert prepare(home, "aider").upstreams == {"upstream_base_url": "http://mine/v1"}
    write(
        home / ".config" / "goose" / "config.yaml", "OPENAI_HOST: http://mine\nOPENAI_BASE_PATH: a/chat/completions\n"
    )
    goose = prepare(home, "goose")
    assert goose.upstreams == {"upstream_base_url": "http://mine/a"}
    assert goose.variables["OPENAI_BASE_PATH"] == "v1/chat/completions"


def test_openhands_gets_its_option_once(home: Path) -> None:
    assert prepare(home, "openhands").arguments == ["--override-with-envs"]
    setup = prepare(home, "openhands", "--override-with-envs", LLM_BASE_URL="http://c", LLM_MODEL="anthropic/sonnet")
    assert setup.arguments == []
    assert setup.upstreams == {"anthropic_base_url": "http://c/v1"}


@pytest.mark.parametrize("content", ["", "[", "[]", "env = 1", '{"env": 1, "provider": [], "tokens": 0}'])
def test_a_damaged_configuration_file_is_ignored(home: Path, content: str) -> None:
    for name in (".claude/settings.json", ".codex/config.toml", ".codex/auth.json", "opencode.json", ".aider.conf.yml"):
        write(home / name, content)
    for client in clients.CLIENTS:
        assert prepare(home, client).upstreams == {}


def test_wrap_starts_a_client_with_all_it_needs_and_hands_it_its_own_options(
    upstream: FaultyUpstream, home: Path
) -> None:
    script = home / "codex"
    write(script, f"#!{sys.executable}\nimport os, sys\nprint(sys.argv[1:], os.environ['OPENAI_BASE_URL'])\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    environment = {"CLARA_UPSTREAM_BASE_URL": f"{upstream.url}/v1", "CLARA_DATA_DIR": str(home), "HOME": str(home)}
    result = shell.run("wrap", str(script), "--config", "mine", **environment)
    assert result.returncode == 0, result.stderr
    arguments, url = result.stdout.strip().rsplit(" ", 1)
    assert arguments == str(["-c", f'openai_base_url="{url}"', "--config", "mine"])
    assert "run `clara-proxy doctor codex`" in result.stderr


def test_doctor_checks_a_client(upstream: FaultyUpstream, home: Path) -> None:
    environment = {
        "CLARA_UPSTREAM_BASE_URL": "http://127.0.0.1:1/v1",  # Claude Code does not use it
        "CLARA_ANTHROPIC_BASE_URL": f"{upstream.url}/v1",
        "CLARA_DATA_DIR": str(home / "data"),
        "CLARA_PORT": "0",
        "HOME": str(home),
        "PATH": str(home),
    }
    result = shell.run("doctor", "claude", **environment, ENABLE_TOOL_SEARCH="false", CLAUDE_CODE_USE_VERTEX="1")
    assert result.returncode == 1, result.stderr
    for text in ("npm install", "unset ENABLE_TOOL_SEARCH", "cloud provider", "ANTHROPIC_BASE_URL=http://127.0.0.1"):
        assert text in result.stdout
    write(home / "claude", "#!/bin/sh\n")
    (home / "claude").chmod(0o700)
    assert shell.run("doctor", "claude", **environment).returncode == 0


def test_doctor_names_the_known_clients() -> None:
    result = CliRunner().invoke(cli.app, ["doctor", "clod"])
    assert result.exit_code == 2
    assert "known are aider, claude" in result.stderr


def test_doctor_names_clients_that_cannot_be_routed(home: Path) -> None:
    checks = doctor.check_client(prepare(home, "gemini", PATH=os.defpath), Settings())
    assert any("Google's own API" in check.result and check.remedy for check in checks)
