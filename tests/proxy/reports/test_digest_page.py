"""The digest page: totals of the ledger, escaped labels, no external resources."""

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

HOSTILE_LABEL = '<script>alert(1)</script>" onload="x'
DAY = 86_400.0


class Page(HTMLParser):
    """The elements with their attributes, and the text of a page."""

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


def row(name: str, at: float, received: int, sent: int, **values: object) -> Row:
    """Return the row of a billed request."""
    unbilled = Row(name, at, model="gpt-4o", mode_used="extract", tokens_received=received, tokens_sent=sent)
    bill, baseline = Usage(sent, 10, None, 0), Usage(received, 10, None, 0)
    return apply_bill(unbilled._replace(**values), bill, prices.find_price("gpt-4o"), baseline)  # type: ignore[arg-type]


def render(folder: Path, *rows: Row) -> str:
    async def write_and_render() -> str:
        ledger = Ledger(ledger_url(folder))
        await ledger.start()
        try:
            for item in rows:
                ledger.write(item)
            await ledger.flush()
            return digest_page.render_page(await digest_page.load_digest(ledger, 0.0, 10 * DAY))
        finally:
            await ledger.stop()

    return asyncio.run(write_and_render())


def test_the_page_shows_the_ledger_totals(tmp_path: Path) -> None:
    rows = [row(str(day), day * DAY + 5, 100_000, 40_000, project="support") for day in range(4)]
    page = Page(render(tmp_path, *rows, row("x", 5.0, 50, 50, status=500, outcome="failed", project="support")))
    assert not page.open
    assert "1 January 1970 to 11 January 1970" in page.text
    assert "240.0k tokens fewer sent, 60.0 % of 400.0k" in page.text
    assert "$0.6000 saved, net of all costs" in page.text
    assert "5 requests" in page.text
    assert "Failed or rejected: 1 request, which" in page.text
    assert "support" in page.text
    bars = [attributes for tag, attributes in page.elements if tag == "rect"]
    assert len(bars) == 8
    sent, saved = (float(bar["height"] or 0) for bar in bars[:2])
    assert saved == pytest.approx(1.5 * sent, rel=0.01)


def test_a_loss_is_shown_as_a_loss(tmp_path: Path) -> None:
    page = Page(render(tmp_path, row("a", 5.0, 1000, 1500)))
    assert "500 tokens more sent" in page.text
    assert "lost" in page.text
    assert {attributes.get("class") for tag, attributes in page.elements if tag == "b"} == {"loss", None}


def test_unknown_dollars_are_not_shown_as_zero(tmp_path: Path) -> None:
    page = Page(render(tmp_path, Row("a", 5.0, model="some-model", tokens_received=9, tokens_sent=9)))
    assert "unknown saved" in page.text
    assert "The provider's bill was unknown." in page.text
    assert "Without a price: 1 request," in page.text


def test_zero_dollars_beside_unpriced_requests_are_unknown(tmp_path: Path) -> None:
    token_count = apply_bill(Row("b", 6.0, model="some-model", outcome="served"), None, None)
    page = Page(render(tmp_path, Row("a", 5.0, model="some-model", tokens_received=9, tokens_sent=9), token_count))
    assert "unknown saved" in page.text
    assert "The provider's bill was unknown." in page.text
    assert "$0" not in page.text


def test_without_a_provider_nothing_was_billed(tmp_path: Path) -> None:
    served = Row("a", 5.0, model="clara", protocol="chat", outcome="served", tokens_received=900, tokens_sent=60)
    page = Page(
        render(tmp_path, apply_bill(served, None, None), apply_bill(Row("b", 6.0, outcome="served"), None, None))
    )
    assert "840 tokens fewer sent" in page.text
    assert "- nothing was billed" in page.text
    assert "unknown" not in page.text
    assert "not known" not in page.text


def test_small_amounts_are_not_rounded_to_zero(tmp_path: Path) -> None:
    assert "$0.000025 saved" in Page(render(tmp_path, row("a", 5.0, 20, 10))).text


def test_labels_are_escaped(tmp_path: Path) -> None:
    rows = [row(str(at), 5.0, 100, 50, project=f"{HOSTILE_LABEL}{at}", model=HOSTILE_LABEL) for at in range(12)]
    text = render(tmp_path, *rows)
    page = Page(text)
    assert HOSTILE_LABEL in page.text
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert not re.search(r"(?:src|href)=|https?://|@import|url\(", text)
    assert "and 4 more" in page.text


def test_an_empty_period_says_so() -> None:
    page = Page(digest_page.render_page(Digest(0.0, DAY, None, [], {}, None)))
    assert "No requests in this period." in page.text
    assert not page.open


def test_the_digest_command_writes_the_page(tmp_path: Path) -> None:
    render(tmp_path, row("a", 5.0, 1000, 500))
    out = tmp_path / "week.html"
    arguments = ["digest", "--data-dir", str(tmp_path), "--since", "1970-01-01"]
    result = CliRunner().invoke(cli.app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "500 tokens fewer sent" in Page(out.read_text()).text
    assert CliRunner().invoke(cli.app, arguments).output.startswith("<!doctype html>")
    assert CliRunner().invoke(cli.app, [*arguments[:-1], "x"]).exit_code == 2
    missing = CliRunner().invoke(cli.app, ["digest", "--data-dir", str(tmp_path / "none")])
    assert (missing.exit_code, "no ledger" in missing.output) == (2, True)
