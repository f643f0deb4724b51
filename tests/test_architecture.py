"""The house: imports run one way, there is no circle, and nobody but config reads the environment."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("config", "compression", "proxy")
LAYERS = (  # from the ground up; a folder inside a room is a floor of its own
    "config",
    "compression",
    "proxy.stores",
    "proxy.reports",
    "proxy.watch",
    "proxy.protocols",
    "proxy.http",
    "proxy.access",
    "proxy.expand",
    "proxy.pipeline",
    "proxy.runtime",
    "proxy.clara",
    "proxy.dashboard",
    "proxy.endpoints",
    "proxy",
    "proxy.integrations",
    "proxy.commands",
)
FILES = sorted(path for room in PACKAGES for path in (ROOT / room).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def parse_file(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def iter_imports(path: Path) -> Iterator[str]:
    """Name the modules of ours that a file imports, as `room.module`."""
    package = module_name(path).split(".")[:-1]
    for node in ast.walk(parse_file(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                yield inner if (ROOT / Path(*inner.split("."))).with_suffix(".py").exists() else ".".join(base)


def layer_index(name: str) -> int:
    """Return how high up a module is: by the longest name of a floor that it stands on."""
    return max(range(len(LAYERS)), key=lambda at: len(LAYERS[at]) * f"{name}.".startswith(f"{LAYERS[at]}."))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_down_and_relatively(path: Path) -> None:
    assert not [name for name in iter_imports(path) if layer_index(name) > layer_index(module_name(path))]
    absolute = [
        alias.name for node in ast.walk(parse_file(path)) if isinstance(node, ast.Import) for alias in node.names
    ]
    absolute += [
        str(node.module) for node in ast.walk(parse_file(path)) if isinstance(node, ast.ImportFrom) and not node.level
    ]
    assert not [name for name in absolute if name.split(".")[0] in (*PACKAGES, "clara_proxy", "benchmarks", "tests")]


def test_there_is_no_circle() -> None:
    arrows = {module_name(path): set(iter_imports(path)) - {module_name(path)} for path in FILES}
    while leaves := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in leaves}
    assert not arrows, f"a circle among {sorted(arrows)}"


@pytest.mark.parametrize("path", [path for path in FILES if "config" not in path.parts], ids=module_name)
def test_only_config_reads_the_environment(path: Path) -> None:
    named = {node.attr for node in ast.walk(parse_file(path)) if isinstance(node, ast.Attribute)}
    assert not named & {"environ", "getenv", "environb"}


def test_only_clara_knows_torch_and_only_providers_litellm() -> None:
    for path in FILES:
        names = {
            alias.name for node in ast.walk(parse_file(path)) if isinstance(node, ast.Import) for alias in node.names
        }
        names |= {str(node.module) for node in ast.walk(parse_file(path)) if isinstance(node, ast.ImportFrom)}
        tops = {name.split(".")[0] for name in names}
        assert "clara" in path.parts or not tops & {"torch", "transformers", "accelerate", "safetensors"}, path
        assert "integrations" in path.parts or not tops & {"litellm"}, path


def test_rooms_have_no_init_so_that_the_standard_librarys_compression_wins() -> None:
    assert not [path for path in FILES if path.name == "__init__.py"]


def test_starting_up_imports_neither_torch_nor_litellm() -> None:
    code = (
        "import sys, clara_proxy.proxy.app; print(*({'torch', 'litellm', 'transformers', 'openai'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
