"""Imports run one way without a cycle, only config reads the environment, and modules and functions stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("config", "compression", "proxy")
LAYERS = (  # lowest first; the longest matching name decides
    "config",
    "compression",
    "proxy.stores",
    "proxy.reports",
    "proxy.watch",
    "proxy.protocols",
    "proxy.http",
    "proxy.access",
    "proxy.cache",
    "proxy.expand",
    "proxy.memory",
    "proxy.pipeline",
    "proxy.runtime",
    "proxy.evaluation",
    "proxy.clara",
    "proxy.dashboard",
    "proxy.endpoints",
    "proxy",
    "proxy.integrations",
    "proxy.commands",
)
LAZY = {"fastapi", "rich", "sqlalchemy.orm", "sqlalchemy.dialects.postgresql"}  # for some requests or databases only
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def parse_file(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def iter_imports(path: Path) -> Iterator[str]:
    """Yield the names of this project's modules that a file imports, for example `proxy.app`."""
    package = module_name(path).split(".")[:-1]
    for node in ast.walk(parse_file(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
            for alias in node.names:
                inner = ".".join([*base, alias.name])
                yield inner if (ROOT / Path(*inner.split("."))).with_suffix(".py").exists() else ".".join(base)


def absolute_imports(path: Path) -> set[str]:
    """Return the top-level names of all absolute imports."""
    nodes = list(ast.walk(parse_file(path)))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names if name != "compression.zstd"}  # of the standard library


def layer_index(name: str) -> int:
    """Return the position of a module's layer."""
    return max(range(len(LAYERS)), key=lambda index: len(LAYERS[index]) * f"{name}.".startswith(f"{LAYERS[index]}."))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_are_relative_and_lead_to_lower_layers(path: Path) -> None:
    assert not [name for name in iter_imports(path) if layer_index(name) > layer_index(module_name(path))]
    assert not absolute_imports(path) & {*PACKAGES, "clara_proxy", "benchmarks", "tests"}


def test_there_is_no_import_cycle() -> None:
    imports = {module_name(path): set(iter_imports(path)) - {module_name(path)} for path in FILES}
    while leaves := {name for name, targets in imports.items() if not targets & imports.keys()}:
        imports = {name: targets for name, targets in imports.items() if name not in leaves}
    assert not imports, f"a cycle among {sorted(imports)}"


@pytest.mark.parametrize("path", [path for path in FILES if "config" not in path.parts], ids=module_name)
def test_only_config_reads_the_environment(path: Path) -> None:
    attributes = {node.attr for node in ast.walk(parse_file(path)) if isinstance(node, ast.Attribute)}
    assert not attributes & {"environ", "getenv", "environb"}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_modules_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES
    functions = [
        node for node in ast.walk(parse_file(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert not {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}


def test_only_models_import_torch_and_only_integrations_litellm() -> None:
    for path in FILES:
        names = absolute_imports(path)
        assert {"clara", "pruners", "models"} & set(path.parts) or not names & {
            "torch",
            "mlx",
            "transformers",
            "accelerate",
            "safetensors",
        }, path
        assert "integrations" in path.parts or not names & {"litellm"}, path


def test_packages_have_no_init_file() -> None:
    """An `__init__.py` in `compression/` could shadow the standard library's `compression`."""
    assert not [path for path in FILES if path.name == "__init__.py"]


@pytest.mark.parametrize(
    ("module", "slow"),
    [
        ("proxy.app", {"torch", "litellm", "transformers", "openai", "numpy", *LAZY}),
        ("proxy.commands.cli", {"sqlalchemy", "fastapi", "aiohttp", "uvicorn", "tiktoken"}),
    ],
)
def test_start_up_imports_no_slow_libraries(module: str, slow: set[str]) -> None:
    code = f"import sys, clara_proxy.{module}; print(*({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.strip()
