"""`clara-proxy replay` on files and folders."""

import gzip
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from clara_proxy.proxy.commands import cli
from clara_proxy.proxy.commands.demo import run as demo
from clara_proxy.tests.running import short_chat, tool_chat

SAMPLE = Path(demo.__file__).with_name(demo.SAMPLE_FILE)


def replay(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["replay", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def groups(result: Result) -> dict[str, int]:
    return {group["group"]: group["saved"] for group in orjson.loads(result.stdout)["groups"]}


def test_bundled_conversations_can_be_replayed() -> None:
    result = replay(SAMPLE, "--by", "project", "--format", "json")
    saved = groups(result)
    assert saved.keys() == {str(one["agent"]) for one in demo.read_conversations()}
    assert sum(saved.values()) > 50_000
    assert "none of them sent" in result.stderr


def test_folder_of_mixed_recordings_can_be_replayed(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(orjson.dumps(tool_chat()))
    (tmp_path / "deep").mkdir()
    compressed = gzip.compress(b"\n".join(map(orjson.dumps, [tool_chat(), short_chat()])) + b"\n{broken\n[1]\n")
    (tmp_path / "deep" / "two.jsonl.gz").write_bytes(compressed)
    (tmp_path / "list.json").write_bytes(orjson.dumps([short_chat(), {"unknown": 1}]))
    (tmp_path / "notes.txt").write_text("not a recording")
    result = replay(tmp_path, "--by", "all", "--format", "json")
    assert groups(result)["all"] > 2000
    assert "Requests: 4," in result.stderr
    assert [line.split(": ")[1] for line in result.stderr.splitlines() if "unreadable" in line] == [
        f"{tmp_path}/deep/two.jsonl.gz, line 3",
        f"{tmp_path}/deep/two.jsonl.gz, line 4",
        f"{tmp_path}/list.json, 2",
    ]


def test_options_change_the_savings(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(orjson.dumps(tool_chat()))
    usual, little, nothing = (
        groups(replay(file, "--by", "model", "--format", "json", *more))["gpt-4o"]
        for more in ([], ["--ratio", "2"], ["--mode", "off"])
    )
    assert usual > little > nothing == 0


@pytest.mark.parametrize("arguments", [["--by", "nothing"], ["--format", "xml"], ["--mode", "x"]])
def test_invalid_option_value_is_named(arguments: list[str]) -> None:
    assert arguments[1] in replay(SAMPLE, *arguments, code=2).stderr


@pytest.mark.parametrize("mode", ["answer", "summary", "latent"])
def test_unavailable_mode_is_an_error_of_one_line(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARA_MODEL", "none")
    result = replay(SAMPLE, "--mode", mode, code=2)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert f"mode {mode}" in result.stderr
    assert "CLARA_MODEL" in result.stderr


def test_model_aliases_of_the_configuration_have_prices(tmp_path: Path) -> None:
    file, config = tmp_path / "one.json", tmp_path / "clara.yaml"
    file.write_bytes(orjson.dumps(tool_chat(model="fast")))
    config.write_text("models:\n- name: fast\n  litellm: gpt-4o\n")
    assert "these models have no list price" in replay(file).stderr
    assert "Input at list price, without the provider's cache: $0.02" in replay(file, "--config", config).stderr


def test_requests_answered_by_clara_have_no_input_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")
    monkeypatch.setenv("CLARA_MODEL", "clara-nano")
    prompt = "<documents>User likes hiking in national parks.</documents>\nWhat outdoor activities does the user enjoy?"
    file = tmp_path / "one.json"
    file.write_bytes(orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": prompt}]}))
    result = replay(file, "--mode", "latent", "--by", "outcome", "--format", "json")
    (group,) = orjson.loads(result.stdout)["groups"]
    assert (group["group"], group["requests"], group["unpriced_savings"]) == ("served", 1, 0)
    assert group["compressor_tokens"] > 0
    assert "$" not in result.stderr


def test_empty_input_is_reported(tmp_path: Path) -> None:
    result = replay(tmp_path, code=1)
    assert "Requests: 0," in result.stderr
    assert result.stdout.startswith("No readable requests: ")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    result = replay(tmp_path, code=1)
    assert result.stdout.startswith("No readable requests: ")
    assert "unreadable" in result.stderr
    assert "No such file" in replay(tmp_path / "x.json", code=2).stderr
