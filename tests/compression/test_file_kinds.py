import time

import pytest

from clara_proxy.compression import file_kinds
from clara_proxy.compression.file_kinds import FileKind, classify_path, is_path, parse_path_line


@pytest.mark.parametrize(
    ("paths", "kind"),
    [
        ("src/app.py a.TSX deploy/app.yml README.md docs/a.rst Makefile Dockerfile.dev .env main.go a.sql", "source"),
        ("package.json tsconfig.base.json .eslintrc.json appsettings.Development.json pyproject.toml", "source"),
        (r"C:\repo\a.cs src/app.py:12-30 requirements.txt CMakeLists.txt LICENSE .github/workflows/ci.yml", "source"),
        ("app.log app.log.1 /var/log/syslog rows.json a.csv x.ndjson logs/today dump.sqlite", "data"),
        ("package-lock.json pnpm-lock.yaml yarn.lock go.sum a.min.js dist/app.js a_pb2.py a.pb.go x.g.dart", "data"),
        ("notes.txt x output /tmp/result", "unknown"),
    ],
)
def test_paths_tell_the_kind_of_file(paths: str, kind: FileKind) -> None:
    assert {path: classify_path(path) for path in paths.split()} == dict.fromkeys(paths.split(), kind)


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("src/app.py", "src/app.py"),
        ("### `src/app.py`", "src/app.py"),
        ("**src/app.py**:", "src/app.py"),
        ("File: src/app.py", "src/app.py"),
        ("==> src/app.py <==", "src/app.py"),
        ("--- src/app.py ---", "src/app.py"),
        ("// src/app.ts", "src/app.ts"),
        ("2. src/app.py:", "src/app.py"),
        ("app.py (read only)", "app.py"),
        ("Content from @src/app.py:", "src/app.py"),
        ("/etc/nginx/nginx.conf", "/etc/nginx/nginx.conf"),
        ("src/pages/[id].tsx", "src/pages/[id].tsx"),
        ("my folder/a file.py", "my folder/a file.py"),
        ("Makefile", "Makefile"),
    ],
)
def test_path_lines_are_recognised_with_their_decoration(line: str, path: str) -> None:
    assert parse_path_line(line) == path


@pytest.mark.parametrize(
    "line",
    [
        "", "Here is the log:", "Thanks", "and/or", "3.14", "e.g.", "Why did it fail?", "https://example.com/a.py",
        "12 passed in 0.3s", "It is in a.py. Then it fails.", "x" * 1000, "```", "{}", "build",
    ],
)  # fmt: skip
def test_other_lines_hold_no_path(line: str) -> None:
    assert parse_path_line(line) is None
    assert not is_path(line)


def test_code_and_configuration_are_recognised_without_a_path() -> None:
    assert file_kinds.is_code_or_config("[tool.ruff]\nline-length = 120\n\n[tool.mypy]\nstrict = true\nfiles = 'a'\n")
    assert file_kinds.is_code_or_config("\n".join(f"app_{n}:\n  image: x:{n}\n  ports:\n    - {n}" for n in range(9)))
    assert not file_kinds.is_code_or_config("\n".join(f"2024-05-01T10:00:{n:02d}Z INFO it is {n}" for n in range(60)))
    assert not file_kinds.is_code_or_config("\n".join(f"request {n} was handled by worker {n % 7}" for n in range(80)))


@pytest.mark.parametrize("unit", ["a/", "#", "`", " ", "\\", "(", "[a]\n", "a: b\n", "a:\n  b: c\n", "=", "--- "])
def test_hostile_line_is_fast(unit: str) -> None:
    started = time.perf_counter()
    parse_path_line(unit * (290 // len(unit)))
    file_kinds.is_code_or_config(unit * (200_000 // len(unit)))
    assert time.perf_counter() - started < 2
