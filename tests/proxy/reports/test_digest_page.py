"""The page about a week: its figures are the ledger's, its labels are escaped, and nothing comes from outside."""

import asyncio
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clara_proxy.config import prices
from clara_proxy.proxy.commands import cli
from clara_proxy.proxy.reports import digest_page
from clara_proxy.proxy.reports.digest_page import Digest
from clara_proxy.proxy.stores.accounting import apply_bill
from clara_proxy.proxy.stores.ledger import Ledger, ledger_url
from clara_proxy.proxy.stores.ledger_row import Row
from clara_proxy.proxy.stores.usage import Usage

HOSTILE = '<script>alert(1)</script>" onload="x'
DAY = 86_400.0


class Page(HTMLParser):
    """Holds what a browser would see: the elements with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def row(name: str, at: float, received: int, sent: int, **more: object) -> Row:
    """Return the row of a request that was billed as it was sent."""
    made = Row(name, at, model="gpt-4o", mode_used="extract", tokens_received=received, tokens_sent=sent)
    bill, whole = Usage(sent, 10, None, 0), Usage(received, 10, None, 0)
    return apply_bill(made._replace(**more), bill, prices.find_price("gpt-4o"), whole)  # type: ignore[arg-type]


def made(folder: Path, *rows: Row) -> str:
    async def written() -> str:
        ledger = Ledger(ledger_url(folder))
        await ledger.start()
        try:
            for one in rows:
                ledger.write(one)
            await ledger.flush()
            return digest_page.render_page(await digest_page.load_digest(ledger, 0.0, 10 * DAY))
        finally:
            await ledger.stop()

    return asyncio.run(written())


def test_it_says_what_the_ledger_says(tmp_path: Path) -> None:
    rows = [row(str(day), day * DAY + 5, 100_000, 40_000, project="support") for day in range(4)]
    page = Page(made(tmp_path, *rows, row("x", 5.0, 50, 50, status=500, outcome="failed", project="support")))
    assert not page.open
    assert "1 January 1970 to 11 January 1970" in page.text
    assert "240.0k tokens less were sent, 60.0 % of 400.0k" in page.text
    assert "$0.6000 was saved, net of all it cost" in page.text
    assert "5 requests" in page.text
    assert "1 requests failed or were refused" in page.text
    assert "support" in page.text
    bars = [attributes for tag, attributes in page.elements if tag == "rect"]
    assert len(bars) == 8
    sent, saved = (float(bar["height"] or 0) for bar in bars[:2])
    assert saved == pytest.approx(1.5 * sent, rel=0.01)


def test_a_loss_is_called_one(tmp_path: Path) -> None:
    page = Page(made(tmp_path, row("a", 5.0, 1000, 1500)))
    assert "500 tokens more were sent" in page.text
    assert "was lost" in page.text
    assert {attributes.get("class") for tag, attributes in page.elements if tag == "b"} == {"loss", None}


def test_what_is_not_known_is_not_nought(tmp_path: Path) -> None:
    page = Page(made(tmp_path, Row("a", 5.0, model="some-model", tokens_received=9, tokens_sent=9)))
    assert "unknown was saved" in page.text
    assert "The provider's bill was unknown." in page.text
    assert "1 requests had no price" in page.text


def test_nought_beside_requests_without_a_price_is_not_known_either(tmp_path: Path) -> None:
    counted = apply_bill(Row("b", 6.0, model="some-model", outcome="served"), None, None)
    page = Page(made(tmp_path, Row("a", 5.0, model="some-model", tokens_received=9, tokens_sent=9), counted))
    assert "unknown was saved" in page.text
    assert "The provider's bill was unknown." in page.text
    assert "$0" not in page.text


def test_where_no_provider_was_asked_there_is_nothing_to_be_known(tmp_path: Path) -> None:
    answered = Row("a", 5.0, model="clara", protocol="chat", outcome="served", tokens_received=900, tokens_sent=60)
    page = Page(
        made(tmp_path, apply_bill(answered, None, None), apply_bill(Row("b", 6.0, outcome="served"), None, None))
    )
    assert "840 tokens less were sent" in page.text
    assert "- nothing was billed" in page.text
    assert "unknown" not in page.text
    assert "not known" not in page.text


def test_a_little_is_not_nothing(tmp_path: Path) -> None:
    assert "$0.000025 was saved" in Page(made(tmp_path, row("a", 5.0, 20, 10))).text


def test_labels_are_text(tmp_path: Path) -> None:
    rows = [row(str(at), 5.0, 100, 50, project=f"{HOSTILE}{at}", model=HOSTILE) for at in range(12)]
    text = made(tmp_path, *rows)
    page = Page(text)
    assert HOSTILE in page.text
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not re.search(r"(?:src|href)=|https?://|@import|url\(", text)
    assert "and 4 more" in page.text


def test_nothing_came_in() -> None:
    page = Page(digest_page.render_page(Digest(0.0, DAY, None, [], {}, None)))
    assert "No request came in that time." in page.text
    assert not page.open


def test_as_a_command(tmp_path: Path) -> None:
    made(tmp_path, row("a", 5.0, 1000, 500))
    out = tmp_path / "week.html"
    arguments = ["digest", "--data-dir", str(tmp_path), "--since", "1970-01-01"]
    result = CliRunner().invoke(cli.app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "500 tokens less were sent" in Page(out.read_text()).text
    assert CliRunner().invoke(cli.app, arguments).output.startswith("<!doctype html>")
    assert CliRunner().invoke(cli.app, [*arguments[:-1], "x"]).exit_code == 2
    nowhere = CliRunner().invoke(cli.app, ["digest", "--data-dir", str(tmp_path / "none")])
    assert (nowhere.exit_code, "no ledger" in nowhere.output) == (2, True)
