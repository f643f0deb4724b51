"""Messages about a missing extra: the command fits the installation, and no message names an index by itself."""

import json
import re
from pathlib import Path

import pytest

from clara_proxy.config.extras import build_command

ROOT = Path(__file__).parents[2]
PIPX = "/home/me/.local/share/pipx/venvs/clara-proxy"
UV = "/home/me/.local/share/uv/tools/clara-proxy"


@pytest.mark.parametrize(
    ("prefix", "command"),
    [("/venv", "pip install"), (PIPX, "pipx install --force"), (UV, "uv tool install --force")],
)
def test_an_extra_comes_from_where_the_installation_came(prefix: str, command: str, tmp_path: Path) -> None:
    checkout = json.dumps({"url": tmp_path.as_uri(), "dir_info": {}})
    gone = json.dumps({"url": "file:///gone/src", "dir_info": {}})
    git = json.dumps({"url": "https://example.com/x.git", "vcs_info": {"vcs": "git", "commit_id": "0"}})
    assert build_command("redis", prefix, checkout) == f"{command} '{tmp_path}[redis]'"
    assert build_command("redis", prefix, gone) == f"{command} '.[redis]'"
    assert build_command("redis", prefix, git) == f"{command} 'clara-proxy[redis] @ git+https://example.com/x.git'"
    assert build_command("redis", prefix, None) == f"{command} 'clara-proxy[redis]'"


def test_no_message_or_page_installs_an_extra_from_an_index() -> None:
    files = [path for name in ("proxy", "compression", "config") for path in (ROOT / name).rglob("*.py")]
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    pattern = re.compile(r"install (--force )?['\"]?clara-proxy\[")
    assert [str(path) for path in files + pages if pattern.search(path.read_text())] == []
