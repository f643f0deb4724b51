"""`clara-proxy config`: the commented file, every setting with its source, and the file in use."""

import json
from pathlib import Path

import pytest
import yaml

from clara_proxy.config import setting_sources
from clara_proxy.config.settings import Settings
from clara_proxy.tests.proxy.commands.shell import run


def test_new_file_has_every_setting_and_changes_nothing(tmp_path: Path) -> None:
    created = run("config", "init", HOME=str(tmp_path))
    file = tmp_path / ".clara-proxy" / "config.yaml"
    assert (created.returncode, created.stdout) == (0, f"{file}\n")
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text(encoding="utf-8")
    assert yaml.safe_load(text) is None
    assert all(f"\n# {name}:" in text for name in Settings.model_fields)
    assert run("config", "path", HOME=str(tmp_path)).stdout == f"{file}\n"
    assert run("config", "show", "--changed", HOME=str(tmp_path)).stdout == ""


def test_every_default_in_the_file_is_valid_and_equal() -> None:
    lines = [line.removeprefix("# ") for line in setting_sources.render_config_file().splitlines()]
    settings = [line for line in lines if line.partition(":")[0] in Settings.model_fields]
    values = {name: value for name, value in yaml.safe_load("\n".join(settings)).items() if value is not None}
    assert len(values) > 30
    assert Settings(**values) == Settings()


def test_existing_file_is_replaced_only_on_request(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("port: 9000\n", encoding="utf-8")
    refused = run("config", "init", str(file))
    assert refused.returncode == 2
    assert "--force" in refused.stderr
    assert file.read_text(encoding="utf-8") == "port: 9000\n"
    assert run("config", "init", str(file), "--force").returncode == 0
    assert "# port: 8765" in file.read_text(encoding="utf-8")


def test_file_in_the_home_directory_is_used_and_named_as_source(tmp_path: Path) -> None:
    file = tmp_path / ".clara-proxy" / "config.yaml"
    file.parent.mkdir()
    file.write_text("port: 9000\nmode: off\n", encoding="utf-8")
    shown = run("config", "show", "--changed", "--json", HOME=str(tmp_path), CLARA_PORT="9001", CLARA_RATIO="4")
    assert json.loads(shown.stdout) == [
        {"name": "port", "value": 9001, "source": "CLARA_PORT"},
        {"name": "mode", "value": "off", "source": str(file)},
        {"name": "ratio", "value": 4.0, "source": "CLARA_RATIO"},
    ]


def test_secrets_are_masked(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("models: [{name: m, litellm: gemini/x, api_key: hunter2}]\n", encoding="utf-8")
    variables = {"CLARA_UPSTREAM_API_KEY": "hunter2", "CLARA_LEDGER_URL": "postgresql://me:hunter2@h/x"}
    for option in ("--json", "--changed"):
        shown = run("config", "show", option, "--config", str(file), **variables)
        assert "hunter2" not in shown.stdout
        assert "(set)" in shown.stdout


@pytest.mark.parametrize("arguments", [("path",), ("show", "--config", "/nonexistent.yaml")])
def test_missing_file_is_an_error(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run("config", *arguments, HOME=str(tmp_path))
    assert result.returncode in (1, 2)
    assert "configuration file" in result.stderr
