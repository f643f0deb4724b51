"""The wheel: all packages and their data, no tests or benchmarks, and few required dependencies."""

import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from setuptools import build_meta

ROOT = Path(__file__).parents[1]
TOP_LEVEL = ("config", "compression", "proxy")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def find_packages() -> set[str]:
    folders = {path.parent for name in TOP_LEVEL for path in (ROOT / name).rglob("*.py")}
    return {".".join(["clara_proxy", *folder.relative_to(ROOT).parts]) for folder in folders}


def test_every_package_is_listed() -> None:
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == find_packages() | {"clara_proxy"}


def test_the_wheel_has_all_modules_and_data_but_no_tests_or_benchmarks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(_copy(tmp_path / "source"))
    wheel = tmp_path / build_meta.build_wheel(str(tmp_path))
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"clara_proxy/{path.relative_to(ROOT)}" for name in TOP_LEVEL for path in (ROOT / name).rglob("*.py")}
    assert modules <= names
    table = {f"clara_proxy/compression/embedding_table/{name}" for name in ("rows.npy", "scales.npy", "vocabulary.txt")}
    assert table <= names
    assert sum(zipfile.ZipFile(wheel).getinfo(name).compress_size for name in table) < 8_000_000
    nano = "clara_proxy/compression/clara/nano/base/model.safetensors"
    assert {
        "clara_proxy/__init__.py",
        "clara_proxy/py.typed",
        "clara_proxy/proxy/commands/demo/conversations.jsonl.gz",
        nano,
    } <= names
    web = (ROOT / "proxy" / "dashboard" / "web").iterdir()
    assert {f"clara_proxy/{path.relative_to(ROOT)}" for path in web} <= names
    assert not [name for name in names if name.startswith(("clara_proxy/tests", "clara_proxy/benchmarks"))]


def test_required_dependencies_exclude_torch_and_transformers() -> None:
    required = " ".join(PROJECT["project"]["dependencies"])
    assert "torch" not in required
    assert "transformers" not in required


def test_only_training_and_pruners_depend_on_transformers_or_accelerate() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for library, users in (("transformers", {"train", "pruners", "dev"}), ("accelerate", {"train", "dev"})):
        names = {name for name, packages in extras.items() if any(item.startswith(library) for item in packages)}
        assert names == users, library
    assert "clara-proxy[clara]" in extras["train"]


def test_constraints_pin_all_versions_without_paths_or_urls() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").split()
    assert "torch==2.13.0" in lines
    assert all("==" in line and "/" not in line and "@" not in line for line in lines)


def _copy(folder: Path) -> Path:
    """Copy the sources of the wheel, so that the build leaves no files in the checkout."""
    archive = folder.with_suffix(".tar")
    with tarfile.open(archive, "w") as tar:
        for name in (
            "pyproject.toml",
            "README.md",
            "LICENSE",
            "py.typed",
            "__init__.py",
            "config",
            "compression",
            "proxy",
        ):
            tar.add(ROOT / name, name)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder
