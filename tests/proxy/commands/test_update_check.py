"""`clara-proxy update-check` asks the index that pip is configured for, and nothing else does."""

from pathlib import Path

import pytest

from clara_proxy.proxy.commands.update_check import describe_update, parse_version
from clara_proxy.tests.proxy.commands import shell


@pytest.mark.parametrize(
    ("latest", "expected"), [("99.0.1", "99.0.1 is available"), ("0.0.1", "is the newest version")]
)
def test_the_configured_index_is_asked(tmp_path: Path, latest: str, expected: str) -> None:
    folder = tmp_path / "clara-proxy"
    folder.mkdir()
    name = f"clara_proxy-{latest}-py3-none-any.whl"
    (folder / "index.html").write_text(f'<!DOCTYPE html><html><body><a href="{name}">{name}</a></body></html>')
    result = shell.run("update-check", PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL=tmp_path.as_uri())
    assert (result.returncode, result.stderr) == (0, "")
    assert expected in result.stdout


def test_an_unreachable_index_is_an_error_in_one_line() -> None:
    result = shell.run("update-check", PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL="http://127.0.0.1:9/simple")
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert "offline, or the index has no clara-proxy" in line


def test_versions_are_compared_by_their_numbers() -> None:
    assert parse_version("0.10.0") > parse_version("0.9.12")
    assert parse_version("v1.2.0rc1") == (1, 2, 0)
    assert parse_version("1.0+local") == (1, 0)


def test_the_command_fits_the_installation() -> None:
    assert describe_update("/home/me/.local/share/pipx/venvs/clara-proxy") == "pipx upgrade clara-proxy"
    assert describe_update("/home/me/.local/share/uv/tools/clara-proxy") == "uv tool upgrade clara-proxy"
    assert describe_update("/home/me/venv") == "pip install --upgrade clara-proxy"
