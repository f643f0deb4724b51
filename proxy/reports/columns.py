"""What stands in a report: its columns, and figures, dollars and labels as people read them. Pure.

The invariant: what is not known is shown as unknown and never as nought, and a saving below nought is shown as it is.
"""

from collections.abc import Mapping

from ..stores.ledger import TotalValue
from ..stores.ledger_totals import DOLLAR_SUMS, read_dollars

TotalMapping = Mapping[str, TotalValue]

# What a column is called, and the figure of `Ledger.totals` it shows.
COLUMNS = {
    "requests": "requests",
    "received": "received",
    "sent": "sent",
    "saved": "saved",
    "saved %": "saved_percent",
    "billed input": "billed_input",
    "drift %": "drift_percent",
    "cached": "cache_read",
    "output": "billed_output",
    "without us $": "cost_without",
    "cost $": "cost",
    "net saved $": "saved_cost",
    "no price": "unpriced",
    "compressor s": "compressor_seconds",
    "came to nothing": "failures",
}
PARTIAL_MARK = "*"  # behind a sum of dollars that some requests are missing from
_MISSING_LABELS = {
    "cost_without": "saving in dollars",
    "saved_cost": "saving in dollars",
    "cost": "price",
}  # the last prevails
_EMPTY_CELLS = frozenset({"-", "unknown"})


def format_cell(name: str, total: TotalMapping) -> str:
    """Show a figure, in full."""
    if name not in total:
        return "-"  # cannot be told by group, as the cost by tool
    figure = total[name]
    if name in DOLLAR_SUMS:
        amount = read_dollars(total, name)
        # Where nothing is missing there was nothing to be known: nobody asked a provider.
        return (
            "-"
            if amount is None and not count_missing(total, name)
            else _format_dollars(amount, partly=count_missing(total, name) > 0)
        )
    if name == "drift_percent":
        return _format_drift(figure, total.get("drift_estimated_percent"))
    if isinstance(figure, str):
        return figure
    if figure is None:
        return "-" if name == "saved_percent" else "unknown"
    return f"{figure:,.1f}" if isinstance(figure, float) else f"{figure:,}"


def format_short_cell(name: str, total: TotalMapping) -> str:
    """Show a figure as a table has it: millions and more are shortened."""
    figure = total.get(name)
    if not isinstance(figure, int) or abs(figure) < 1_000_000:
        return format_cell(name, total)
    return f"{figure / 1e9:,.3f}G" if abs(figure) >= 1_000_000_000 else f"{figure / 1e6:,.3f}M"


def has_value(shown: str) -> bool:
    """Say whether a cell says anything."""
    return shown not in _EMPTY_CELLS


def format_label(total: TotalMapping) -> str:
    """Return what a group is called, in characters that can be printed: clients choose labels."""
    text = str(total.get("group") or "(none)")
    return "".join(character if character.isprintable() else "?" for character in text)


def summarize_total(total: TotalMapping) -> str:
    """Say in one sentence what was saved of all that came."""
    requests, received, saved = (_read_count(total, name) for name in ("requests", "received", "saved"))
    if not requests:
        return "No request came in that time."
    share = f" ({abs(100 * saved / received):.1f} %)" if received else ""
    told = f"Saved {saved:,} of {received:,} tokens{share}"
    if saved < 0:
        told = f"Sent {-saved:,} tokens more than the {received:,} that came{share}"
    more = _read_count(total, "would_save")
    return (
        f"{told}{_format_net_saving(total)}.{f' Where it only observed, it would have saved {more:,}.' if more else ''}"
    )


def format_footnote(total: TotalMapping) -> str:
    """Say what is missing from the sums that are marked; nothing where none is."""
    marked = {
        count_missing(total, name): whose
        for name, whose in _MISSING_LABELS.items()
        if PARTIAL_MARK in format_cell(name, total)
    }
    left_out = [f"{count:,} requests whose {whose} is not known" for count, whose in sorted(marked.items())]
    return f"{PARTIAL_MARK} without the {' and the '.join(left_out)}" if marked else ""


def _format_net_saving(total: TotalMapping) -> str:
    """Say what it came to in money, where something was billed."""
    if total.get("billed_input") is None and total.get("billed_output") is None:
        return ""
    money = read_dollars(total, "saved_cost")
    if money is None:
        return "; what that is in dollars is not known"
    unpriced = count_missing(total, "saved_cost")
    left_out = f", without the {unpriced:,} requests whose price is not known" if unpriced else ""
    return f", ${_format_dollars(abs(money), partly=False)} {'net' if money >= 0 else 'lost net'}{left_out}"


def _format_dollars(amount: float | None, *, partly: bool) -> str:
    if amount is None:
        return "unknown"
    # What is a little more than nothing is not shown as nothing.
    digits = 4 if not amount or abs(amount) >= 0.00005 else 6
    return f"{amount:,.{digits}f}{PARTIAL_MARK if partly else ''}"


def count_missing(total: TotalMapping, name: str) -> int:
    """Return how many requests are missing from a sum of dollars: those without a price are missing from all."""
    return max(_read_count(total, "unpriced"), _read_count(total, DOLLAR_SUMS[name]))


def _read_count(total: TotalMapping, name: str) -> int:
    figure = total.get(name)
    return int(figure) if isinstance(figure, int | float) else 0


def _format_drift(exact: TotalValue, estimated: TotalValue) -> str:
    """Show what the provider counted beyond our count; `~` where only a stand-in for its vocabulary has counted."""
    if isinstance(exact, float):
        return f"{exact:+.1f}"
    return f"~{estimated:+.1f}" if isinstance(estimated, float) else "-"
