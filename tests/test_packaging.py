"""What is installed: every room, the sample, and a core that stays small."""

import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import build_meta

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages() -> set[str]:
    folders = {path.parent for room in ("config", "compression", "proxy") for path in (ROOT / room).rglob("*.py")}
    return {".".join(["clara_proxy", *folder.relative_to(ROOT).parts]) for folder in folders}


def test_every_room_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages() | {"clara_proxy"}


def test_the_wheel_holds_every_file_of_every_room_and_nothing_of_the_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(_copy_project(tmp_path / "source"))
    wheel = tmp_path / build_meta.build_wheel(str(tmp_path))
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {
        f"clara_proxy/{path.relative_to(ROOT)}"
        for room in ("config", "compression", "proxy")
        for path in (ROOT / room).rglob("*.py")
    }
    assert ours <= names
    nano = "clara_proxy/compression/clara/nano/base/model.safetensors"
    assert {"clara_proxy/py.typed", "clara_proxy/proxy/commands/demo/conversations.jsonl.gz", nano} <= names
    web = (ROOT / "proxy" / "dashboard" / "web").iterdir()
    assert {f"clara_proxy/{path.relative_to(ROOT)}" for path in web} <= names
    assert not [name for name in names if name.startswith(("clara_proxy/tests", "clara_proxy/benchmarks"))]


def test_the_core_needs_no_torch() -> None:
    core = " ".join(PROJECT["project"]["dependencies"])
    assert "torch" not in core
    assert "transformers" not in core


def test_constraints_pin_everything_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert "torch==2.13.0" in lines
    assert all("==" in line and "/" not in line and "@" not in line for line in lines)


def _copy_project(folder: Path) -> Path:
    """Copy what a wheel is made of, so that building leaves nothing behind in the checkout."""
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for name in ("pyproject.toml", "README.md", "LICENSE", "py.typed", "config", "compression", "proxy"):
            tar.add(ROOT / name, name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder
