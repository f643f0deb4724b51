"""A period of the ledger as one HTML page without scripts and external resources, to be sent by mail.

The page contains totals and escaped labels, and no text of conversations. The invariant: an unknown value is shown as
"unknown" and never as 0, and a negative saving is called a loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

from ..stores.ledger import Ledger
from ..stores.ledger_totals import Total, read_dollars
from . import agreement, columns
from .agreement import Agreement
from .html_page import render_document

_MINUS = "\u2212"
MAX_TABLE_ROWS = 8  # further rows are only counted
TABLES = {"model": "By model", "kind": "By kind of content", "tool": "By tool", "project": "By project"}


@dataclass(frozen=True, slots=True)
class Digest:
    """The contents of the page: totals of the period, by day and by group, and the results of shadow checks."""

    since: float
    until: float
    total: Total | None
    days: Sequence[Total]
    groups: dict[str, Sequence[Total]]
    agreement: Agreement | None


async def load_digest(ledger: Ledger, since: float, until: float) -> Digest:
    """Read the ledger from `since` to before `until` (Unix seconds)."""
    total = await ledger.read_totals("all", since, until)
    groups: dict[str, Sequence[Total]] = {by: await ledger.read_totals(by, since, until) for by in TABLES}
    days = await ledger.read_totals("day", since, until)
    return Digest(
        since, until, total[0] if total else None, days, groups, await agreement.read_agreement(ledger, since, until)
    )


def render_page(digest: Digest) -> str:
    """Return the page as HTML."""
    title = f"What clara-proxy saved, {_format_date(digest.since)} to {_format_date(digest.until)}"
    body = [f"<h1>{title}</h1>"]
    if digest.total is None:
        body.append("<p>No requests in this period.</p>")
    else:
        body += [_render_headline(digest.total), _render_chart(digest.days)]
        body += [_render_table(TABLES[by], groups) for by, groups in digest.groups.items() if _has_groups(groups)]
        body.append(_render_notes(digest.total, digest.agreement))
    return render_document(title, "".join(body))


def _render_headline(total: Total) -> str:
    saved, received = _to_number(total.get("saved")), _to_number(total.get("received"))
    share = f"{100 * saved / received:.1f} % of {_abbreviate_tokens(received)}" if received else "of none"
    money, missing = read_dollars(total, "saved_cost"), columns.count_missing(total, "saved_cost")
    is_loss = money is not None and money < 0
    net = "saved, net of all costs" if money is not None or missing else "nothing was billed"
    headlines = [
        (_abbreviate_tokens(abs(saved)), f"tokens {'fewer' if saved >= 0 else 'more'} sent, {share}", saved < 0),
        (_format_dollars(total, "saved_cost").lstrip(_MINUS), "lost" if is_loss else net, is_loss),
        (f"{_to_number(total.get('requests')):,.0f}", "requests", False),
    ]
    items = (
        f"<li><b{_format_loss_class(is_bad)}>{escape(value)}</b>{escape(label)}</li>"
        for value, label, is_bad in headlines
    )
    return f'<ul class="figures">{"".join(items)}</ul>'


def _render_chart(days: Sequence[Total]) -> str:
    """Draw the sent and the saved tokens of each day as stacked bars; nothing for a single day."""
    maximum = max((max(_to_number(day.get("received")), _to_number(day.get("sent"))) for day in days), default=0)
    if len(days) < 2 or not maximum:
        return ""
    step, height, bars = 640 / len(days), 140, list[str]()
    for index, day in enumerate(days):
        sent, saved = _to_number(day.get("sent")), max(0.0, _to_number(day.get("saved")))
        left, width = index * step + step * 0.15, step * 0.7
        sent_height, saved_height = height * sent / maximum, height * saved / maximum
        title = f"{day['group']}: {sent:,.0f} tokens sent, {_to_number(day.get('saved')):,.0f} saved"
        x = f'x="{left:.1f}" width="{width:.1f}"'
        bars.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect class="sent" {x} y="{height - sent_height:.1f}" height="{sent_height:.1f}"/>'
            f'<rect class="saved" {x} y="{height - sent_height - saved_height:.1f}" height="{saved_height:.1f}"/></g>'
        )
    first, last = escape(str(days[0]["group"])), escape(str(days[-1]["group"]))
    ends = f'<text x="0" y="156">{first}</text><text x="640" y="156" text-anchor="end">{last}</text>'
    return (
        f'<figure><svg viewBox="0 0 640 160" role="img" aria-label="Tokens sent and saved per day">'
        f"{''.join(bars)}{ends}</svg><figcaption>Tokens per day: sent (below) and saved (above).</figcaption></figure>"
    )


def _has_groups(groups: Sequence[Total]) -> bool:
    return len(groups) > 1 or any(group.get("group") for group in groups)


def _render_table(title: str, groups: Sequence[Total]) -> str:
    largest = sorted(groups, key=lambda group: -abs(_to_number(group.get("saved"))))[:MAX_TABLE_ROWS]
    rows = "".join(_render_row(group) for group in largest)
    more = f"<p>and {len(groups) - MAX_TABLE_ROWS:,} more</p>" if len(groups) > MAX_TABLE_ROWS else ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "requests", "received", "saved", "", "net saved"))
    return f'<h2>{title}</h2><div class="wide"><table><tr>{head}</tr>{rows}</table></div>{more}'


def _render_row(group: Total) -> str:
    received, saved = _to_number(group.get("received")), _to_number(group.get("saved"))
    money = _format_dollars(group, "saved_cost") if "saved_cost" in group else "-"
    cells = [
        f"{_to_number(group.get('requests')):,.0f}",
        _abbreviate_tokens(received),
        _abbreviate_tokens(saved),
        f"{100 * saved / received:.1f} %" if received else "",
        money,
    ]
    name = escape(str(group.get("group") or "(none)")[:80])
    values = "".join(f"<td{_format_loss_class(cell[:1] == _MINUS)}>{cell}</td>" for cell in cells)
    return f"<tr><td>{name}</td>{values}</tr>"


def _render_notes(total: Total, results: Agreement | None) -> str:
    """Explain the numbers: the bill, the requests that they exclude, and the shadow checks."""
    has_bill = read_dollars(total, "cost") is not None or columns.count_missing(total, "cost")
    bill = f"The provider's bill was {_format_dollars(total, 'cost')}." if has_bill else _NO_BILL_NOTE
    notes = [_NET_SAVED_NOTE, bill]
    for name, text in _CAVEAT_NOTES.items():
        if count := _to_number(total.get(name)):
            notes.append(text.format(columns.format_requests(count)))
    if tokens := _to_number(total.get("fetched_back")):
        notes.append(f"{tokens:,.0f} tokens were fetched back by models or clients.")
    if results is not None:
        notes.append(agreement.format_agreement(results))
    return f"<h2>How to read this</h2><p>{' '.join(escape(note) for note in notes)}</p>"


_NET_SAVED_NOTE = (
    "Net saved is the cost of the requests without the proxy, under the provider's cache rules, minus their actual"
    " cost."
)
_NO_BILL_NOTE = "No provider billed anything."
_CAVEAT_NOTES = {
    "failures": "Failed or rejected: {}, which count as requests but not as savings.",
    "unpriced": "Without a price: {}, which the dollars exclude.",
    "unpriced_savings": "The cost without the proxy is unknown for {}.",
    "estimated": "The tokens of {} were counted with a substitute vocabulary.",
}


def _format_loss_class(is_loss: bool) -> str:
    return ' class="loss"' if is_loss else ""


def _to_number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _abbreviate_tokens(tokens: float) -> str:
    sign, tokens = _MINUS if tokens < 0 else "", abs(tokens)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= unit:
            return f"{sign}{tokens / unit:,.1f}{name}"
    return f"{sign}{tokens:,.0f}"


def _format_dollars(total: Total, name: str) -> str:
    """Return a sum of dollars; a dash if no provider was asked."""
    money = read_dollars(total, name)
    if money is None:
        return "unknown" if columns.count_missing(total, name) else "-"
    size = abs(money)
    digits = 2 if size >= 1 or not size else 4 if size >= 0.00005 else 6  # small amounts are not shown as 0
    return f"{_MINUS if money < 0 else ''}${size:,.{digits}f}"


def _format_date(timestamp: float) -> str:
    date = datetime.fromtimestamp(timestamp, UTC)
    return f"{date.day} {date:%B %Y}"
