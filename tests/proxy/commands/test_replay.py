"""`clara-proxy replay` as a person types it."""

import gzip
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner, Result

from clara_proxy.proxy.commands import cli
from clara_proxy.proxy.commands.demo import replay as demo
from clara_proxy.tests.running import short_chat, tool_chat

SAMPLE = Path(demo.__file__).with_name(demo.SAMPLE)


def said(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli.app, ["replay", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def groups(result: Result) -> dict[str, int]:
    return {group["group"]: group["saved"] for group in orjson.loads(result.stdout)["groups"]}


def test_the_bundled_conversations() -> None:
    result = said(SAMPLE, "--by", "project", "--format", "json")
    saved = groups(result)
    assert saved.keys() == {str(one["agent"]) for one in demo.conversations()}
    assert sum(saved.values()) > 50_000
    assert "none of them sent" in result.stderr


def test_a_folder_of_whatever_was_recorded(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_bytes(orjson.dumps(tool_chat()))
    (tmp_path / "deep").mkdir()
    packed = gzip.compress(b"\n".join(map(orjson.dumps, [tool_chat(), short_chat()])) + b"\n{broken\n[1]\n")
    (tmp_path / "deep" / "two.jsonl.gz").write_bytes(packed)
    (tmp_path / "list.json").write_bytes(orjson.dumps([short_chat(), {"nothing": 1}]))
    (tmp_path / "notes.txt").write_text("not a recording")
    result = said(tmp_path, "--by", "all", "--format", "json")
    assert groups(result)["all"] > 2000
    assert "4 requests" in result.stderr
    assert [line.split(": ")[1] for line in result.stderr.splitlines() if "not read" in line] == [
        f"{tmp_path}/deep/two.jsonl.gz, line 3",
        f"{tmp_path}/deep/two.jsonl.gz, line 4",
        f"{tmp_path}/list.json, 2",
    ]


def test_settings_and_options_hold(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(orjson.dumps(tool_chat()))
    usual, much, nothing = (
        groups(said(file, "--by", "model", "--format", "json", *more))["gpt-4o"]
        for more in ([], ["--ratio", "50"], ["--mode", "off"])
    )
    assert much > usual > nothing == 0


@pytest.mark.parametrize("arguments", [["--by", "nothing"], ["--format", "xml"], ["--mode", "x"]])
def test_what_makes_no_sense_is_refused_and_named(arguments: list[str]) -> None:
    assert arguments[1] in said(SAMPLE, *arguments, code=2).stderr


def test_nothing_to_replay_is_told(tmp_path: Path) -> None:
    assert "0 requests" in said(tmp_path, code=1).stderr
    assert "No such file" in said(tmp_path / "x.json", code=2).stderr
