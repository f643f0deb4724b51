"""Pruners in `clara-proxy models`: listed, downloaded after consent to their license, and verified."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

pytest.importorskip("torch", reason="pruners need the extra [pruners]")

from clara_proxy.benchmarks import tiny_pruners
from clara_proxy.compression.models.errors import CheckpointError, NotDownloadedError
from clara_proxy.compression.pruners import catalogue
from clara_proxy.compression.pruners.families import read_spec
from clara_proxy.config.settings import Settings
from clara_proxy.proxy.commands import models, pruner_checkpoints
from clara_proxy.proxy.commands.checkpoints import CheckpointFinding
from clara_proxy.proxy.runtime import local_pruner
from clara_proxy.tests.proxy.commands.test_checkpoints import FakeHub

PROVENCE = "naver/provence-reranker-debertav3-v1"
XSMALL = "hotchpotch/open-provence-reranker-xsmall-v1"
runner = CliRunner()


@pytest.fixture(scope="module")
def pruner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pruners.write_llmlingua2(tmp_path_factory.mktemp("pruner"), "bert")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLARA_CACHE", str(tmp_path / "cache"))


def test_list_has_size_license_and_purpose_of_every_pruner() -> None:
    entries = json.loads(runner.invoke(models.app, ["list", "--json"]).stdout)
    listed = {entry["repo"]: entry for entry in entries}
    assert set(catalogue.PUBLISHED_PRUNERS) <= set(listed)
    for repo in catalogue.PUBLISHED_PRUNERS:
        assert listed[repo]["size_bytes"] > 10**8
        assert listed[repo]["purpose"].startswith("pruner of ")
    assert "no commercial use" in listed[PROVENCE]["licence"]
    assert listed[XSMALL]["licence"] == "MIT"
    assert all(entry["purpose"] for entry in entries)


def find_nothing(source: str, cache: Path | None) -> list[CheckpointFinding]:
    return []


def test_non_commercial_license_needs_consent(pruner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = FakeHub(tmp_path / "hub", {PROVENCE: pruner, XSMALL: pruner})
    monkeypatch.setattr(models, "_open_hub", lambda: hub)
    monkeypatch.setattr(pruner_checkpoints, "verify_pruner", find_nothing)
    refused = runner.invoke(models.app, ["pull", PROVENCE, "--yes"])
    assert refused.exit_code == 1
    assert "no commercial use" in refused.output
    assert "--accept-licence" in refused.output
    asked = runner.invoke(models.app, ["pull", PROVENCE, "--accept-licence"], input="n\n")
    assert "license CC BY-NC 4.0" in asked.output
    assert hub.downloads == []
    assert runner.invoke(models.app, ["pull", PROVENCE, "--accept-licence", "--yes"]).exit_code == 0
    assert runner.invoke(models.app, ["pull", XSMALL, "--yes"]).exit_code == 0
    assert hub.downloads == [PROVENCE, XSMALL]


def test_download_has_one_format_of_weights_and_no_code() -> None:
    names = ["config.json", "modeling.py", "model.safetensors", "pytorch_model.bin", "onnx/model.onnx"]
    assert catalogue.choose_patterns(names)[-1] == "model*.safetensors"
    assert catalogue.choose_patterns(names[:2] + names[3:])[-1] == "pytorch_model.bin"
    assert catalogue.choose_patterns(names[:2] + names[4:])[-1] == "onnx/model.onnx"
    assert not any(pattern.endswith(".py") for pattern in catalogue.choose_patterns(names))
    with pytest.raises(CheckpointError):
        catalogue.choose_patterns(["config.json", "modeling.py"])


def test_verify_scores_a_sample_and_names_what_is_wrong(pruner: Path, tmp_path: Path) -> None:
    assert all(finding.is_ok for finding in pruner_checkpoints.verify_pruner(str(pruner)))
    assert runner.invoke(models.app, ["verify", str(pruner)]).exit_code == 0
    broken = tiny_pruners.write_llmlingua2(tmp_path, "xlm")
    (broken / "model.safetensors").write_bytes(b"nonsense")
    finding = pruner_checkpoints.verify_pruner(str(broken))[-1]
    assert not finding.is_ok
    assert str(broken) in finding.result
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "llama", "architectures": ["LlamaModel"]}))
    with pytest.raises(CheckpointError, match="llama is no pruner"):
        read_spec(broken)


def test_request_downloads_only_published_pruners_with_a_free_license() -> None:
    assert local_pruner.describe_problem(Settings(pruner=XSMALL)) == ""
    assert "--accept-licence" in local_pruner.describe_problem(Settings(pruner=PROVENCE))
    assert "models pull somebody/pruner" in local_pruner.describe_problem(Settings(pruner="somebody/pruner"))
    with pytest.raises(NotDownloadedError):
        catalogue.fetch_folder(PROVENCE)


def test_settings_of_mode_prune_are_checked_at_start(pruner: Path, tmp_path: Path) -> None:
    assert local_pruner.describe_problem(Settings()) == ""
    assert "CLARA_PRUNER" in local_pruner.describe_problem(Settings(mode="prune"))
    assert "CLARA_AUTO" in local_pruner.describe_problem(Settings(auto="prune"))
    assert local_pruner.describe_problem(Settings(mode="prune", pruner=str(pruner))) == ""
    assert "config.json" in local_pruner.describe_problem(Settings(pruner=str(tmp_path)))
