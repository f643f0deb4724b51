"""The documentation matches the code: settings, headers, skip reasons, commands, file names, links."""

import re
from pathlib import Path

import pytest

from clara_proxy.config.settings import ENV_PREFIX, Settings
from clara_proxy.proxy.commands import cli
from clara_proxy.proxy.http import request_options

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), ROOT / "llms.txt", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")]
)


def read_page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table_rows(page: str) -> dict[str, list[str]]:
    """Return the rows of the page's tables by their first cell."""
    cells = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    return {row[0].strip("`"): row for row in cells if row}


def format_default(default: object) -> str:
    text = str(default).lower() if isinstance(default, bool) else str(default)
    return text.replace(",", ", ") if default not in (None, "", ()) else "not set"


def test_settings_table_matches_the_code() -> None:
    table = table_rows(read_page("docs/settings.md"))
    for name, field in Settings.model_fields.items():
        _, default, meaning = table[ENV_PREFIX + name.upper()]
        assert default.strip("`") == format_default(field.get_default()), name
        assert meaning == field.description, name
    assert {row for row in table if row.startswith(ENV_PREFIX)} == {
        ENV_PREFIX + name.upper() for name in Settings.model_fields
    }


def test_every_request_header_is_documented() -> None:
    page = read_page("docs/steering.md")
    known = request_options.describe_headers()
    assert len(known) > 10
    for name in known:
        assert f"`{name}`" in page, name


def test_every_skip_reason_is_documented() -> None:
    page = read_page("docs/steering.md")
    files = [
        ROOT / "compression" / "policy.py",
        ROOT / "compression" / "engine.py",
        ROOT / "proxy" / "pipeline" / "rewrite.py",
    ]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in files)
    reasons = set(
        re.findall(r'(?:return|if|else|_left\(job,|skipped = \{|skipped\[)\s*"([a-z]+(?:-[a-z]+)*)"', sources)
    )
    assert len(reasons) > 8
    for reason in reasons:
        assert f"`{reason}`" in page, reason


def test_every_command_is_in_the_readme() -> None:
    readme = read_page("README.md")
    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert f"clara-proxy {command.name or command.callback.__name__}" in readme


def test_files_named_in_the_architecture_exist() -> None:
    named = re.findall(
        r"`((?:proxy|compression|config|tests|benchmarks)/[\w/]+\.py)`", read_page("docs/architecture.md")
    )
    assert len(named) > 8
    for path in named:
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("index", ["docs/README.md", "llms.txt"])
def test_every_page_is_in_the_index(index: str) -> None:
    text = read_page(index)
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"{page.name})" in text, page.name


def test_the_readme_stays_short() -> None:
    assert len(read_page("README.md").splitlines()) <= 250


def test_every_setting_named_in_the_documentation_exists() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {"CLARA_CONFIG"}
    for page in PAGES:
        if page.name != "CHANGELOG.md" and page.parent.name != "benchmarks":
            assert set(re.findall(r"\bCLARA_[A-Z_]+[A-Z]\b(?!\*)", page.read_text(encoding="utf-8"))) <= known, page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_resolve(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
