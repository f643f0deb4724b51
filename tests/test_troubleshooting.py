"""`docs/troubleshooting.md` lists every error code and every warning of the log."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from clara_proxy.tests.test_docs import ROOT, read_page, table_rows

PAGE = "docs/troubleshooting.md"
LOG_METHODS = {"warning", "error", "critical", "warn"}


@cache
def parse_sources() -> dict[Path, ast.Module]:
    paths = [path for package in ("config", "compression", "proxy") for path in (ROOT / package).rglob("*.py")]
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def walk_sources() -> Iterator[tuple[Path, ast.AST]]:
    for path, tree in parse_sources().items():
        yield from ((path, node) for node in ast.walk(tree))


def collect_codes() -> set[str]:
    """Return the values of `code=`: constants, module constants by name, and defaults of parameters."""
    codes, names = set[str](), set[str]()
    constants: dict[str, str] = {}
    for _, node in walk_sources():
        match node:
            case ast.keyword(arg="code", value=ast.Constant(value=str(code))):
                codes.add(code)
            case ast.keyword(arg="code", value=ast.Name(id=name)):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                constants[name] = text
            case ast.FunctionDef(args=ast.arguments(args=arguments, defaults=defaults)):
                last = arguments[len(arguments) - len(defaults) :]
                for argument, default in zip(last, defaults, strict=True):
                    if argument.arg == "code" and isinstance(default, ast.Constant) and isinstance(default.value, str):
                        codes.add(default.value)
            case _:
                pass
    return codes | {constants[name] for name in names if name in constants}


def describe_message(node: ast.expr) -> str:
    """Return a message with … for each value; empty if it has no words of its own."""
    match node:
        case ast.Constant(value=str(text)):
            message = re.sub(r"%[.\d]*[sdfg]", "…", text)
        case ast.JoinedStr(values=parts):
            message = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts)
        case _:
            message = ""
    message = message.partition("\n")[0].strip()
    return message if re.search(r"\w{3}", message) else ""


def collect_warnings() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path, node in walk_sources():
        match node:
            case ast.Call(func=ast.Attribute(value=target, attr=method), args=[first, *_]) if method in LOG_METHODS:
                if "log" in ast.unparse(target) and (message := describe_message(first)):
                    found[message] = path
            case _:
                pass
    return found


def test_every_error_code_is_listed_and_no_other() -> None:
    errors = read_page(PAGE).partition("## Errors")[2].partition("## Warnings")[0]
    assert set(table_rows(errors)) - {"code", "---"} == collect_codes()


def test_every_warning_is_listed_with_cause_and_cure() -> None:
    page = read_page(PAGE)
    rows = table_rows(page.partition("## Warnings")[2])
    warnings = collect_warnings()
    assert len(warnings) > 30
    lines = {row.strip("` ") for row in rows}
    for message, path in warnings.items():
        assert message.strip("` ") in lines or any(line.endswith(message.lstrip("…")) for line in lines), (
            message,
            path,
        )
    assert all(len(row) == 3 and all(row) for row in rows.values())


def test_settings_named_on_the_page_exist() -> None:
    settings = read_page("docs/settings.md")
    for name in set(re.findall(r"`(CLARA_[A-Z_]+)`", read_page(PAGE))):
        assert f"`{name}`" in settings, name
