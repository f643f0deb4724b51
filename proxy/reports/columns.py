"""The columns of a report, and the format of numbers, dollars and labels. Pure.

The invariant: an unknown value is shown as "unknown" and never as 0, and a loss is shown as a negative saving.
"""

from collections.abc import Mapping

from ..stores.ledger import TotalValue
from ..stores.ledger_columns import DOLLAR_SUMS
from ..stores.ledger_totals import read_dollars

TotalMapping = Mapping[str, TotalValue]

# The heading of each column, and the total of `Ledger.read_totals` in it.
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
    "cost without proxy $": "cost_without",
    "cost $": "cost",
    "net saved $": "saved_cost",
    "no price": "unpriced",
    "compressor s": "compressor_seconds",
    "failed": "failures",
}
PARTIAL_MARK = "*"  # behind a sum of dollars that excludes some requests
_MISSING_LABELS = {
    "cost_without": "saving in dollars",
    "saved_cost": "saving in dollars",
    "cost": "price",
}  # the last entry wins
_EMPTY_CELLS = frozenset({"-", "unknown"})


def format_cell(name: str, total: TotalMapping) -> str:
    """Return the text of a value, in full."""
    if name not in total:
        return "-"  # does not exist for this grouping, such as the cost by tool
    value = total[name]
    if name in DOLLAR_SUMS:
        amount, missing = read_dollars(total, name), count_missing(total, name)
        was_billed = amount is not None or missing
        return _format_dollars(amount, is_partial=missing > 0) if was_billed else "-"
    if name == "drift_percent":
        return _format_drift(value, total.get("drift_estimated_percent"))
    if value is None:
        return "-" if name == "saved_percent" else "unknown"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else value


def format_short_cell(name: str, total: TotalMapping) -> str:
    """Return the text of a value in a table: millions and more are abbreviated."""
    value = total.get(name)
    if not isinstance(value, int) or abs(value) < 1_000_000:
        return format_cell(name, total)
    return f"{value / 1e9:,.3f}G" if abs(value) >= 1_000_000_000 else f"{value / 1e6:,.3f}M"


def has_value(cell: str) -> bool:
    """Return True if a cell contains a known value."""
    return cell not in _EMPTY_CELLS


def format_label(total: TotalMapping) -> str:
    """Return the name of a group in printable characters, because clients choose labels."""
    text = str(total.get("group") or "(none)")
    return "".join(character if character.isprintable() else "?" for character in text)


def summarize_total(total: TotalMapping) -> str:
    """Return one sentence about the savings."""
    requests, received, saved = (_read_count(total, name) for name in ("requests", "received", "saved"))
    if not requests:
        return "No requests in this period."
    share = f" ({abs(100 * saved / received):.1f} %)" if received else ""
    summary = f"Saved {saved:,} of {received:,} tokens{share}"
    if saved < 0:
        summary = f"Sent {-saved:,} tokens more than the {received:,} received{share}"
    possible = _read_count(total, "would_save")
    observed = f" Mode observe would have saved {possible:,} more." if possible else ""
    return f"{summary}{_format_net_saving(total)}.{observed}"


def describe_details(total: TotalMapping) -> list[str]:
    """Return sentences about the cost of the way back, cache misses and unknown usage, where there are any."""
    notes: list[str] = []
    if tokens := _read_count(total, "expand_tokens"):
        money = read_dollars(total, "expand_cost")
        cost = "at an unknown cost" if money is None else f"${_format_dollars(money, is_partial=False)}"
        notes.append(f"Cost of the way back (clara_expand and its calls): {tokens:,} tokens, {cost}, included.")
    if misses := _read_count(total, "cache_misses"):
        ours = _read_count(total, "cache_misses_ours")
        missed = format_requests(misses)
        notes.append(f"The provider's cache missed in {missed}, {ours:,} after a change by the proxy.")
    if unknown := _read_count(total, "unknown_usages"):
        notes.append(
            f"The usage of {format_requests(unknown)} has amounts that the proxy does not know (unknown_usage)."
        )
    return notes


def format_requests(count: float) -> str:
    """Return a number of requests in words."""
    return "1 request" if count == 1 else f"{count:,.0f} requests"


def format_footnote(total: TotalMapping) -> str:
    """Return what the marked sums exclude; empty without marked sums."""
    marked = {
        count_missing(total, name): label
        for name, label in _MISSING_LABELS.items()
        if PARTIAL_MARK in format_cell(name, total)
    }
    excluded = [f"{format_requests(count)} whose {label} is unknown" for count, label in sorted(marked.items())]
    return f"{PARTIAL_MARK} without the {' and the '.join(excluded)}" if marked else ""


def _format_net_saving(total: TotalMapping) -> str:
    """Return the part of the sentence about dollars; empty if nothing was billed."""
    if total.get("billed_input") is None and total.get("billed_output") is None:
        return ""
    money = read_dollars(total, "saved_cost")
    if money is None:
        return "; the saving in dollars is unknown"
    unpriced = count_missing(total, "saved_cost")
    excluded = f", without the {format_requests(unpriced)} whose price is unknown" if unpriced else ""
    return f", ${_format_dollars(abs(money), is_partial=False)} {'net' if money >= 0 else 'lost net'}{excluded}"


def _format_dollars(amount: float | None, *, is_partial: bool) -> str:
    if amount is None:
        return "unknown"
    # Small amounts get more digits, so that they are not shown as 0.
    digits = 4 if not amount or abs(amount) >= 0.00005 else 6
    return f"{amount:,.{digits}f}{PARTIAL_MARK if is_partial else ''}"


def count_missing(total: TotalMapping, name: str) -> int:
    """Return how many requests a sum of dollars excludes; those without a price are excluded from all."""
    return max(_read_count(total, "unpriced"), _read_count(total, DOLLAR_SUMS[name]))


def _read_count(total: TotalMapping, name: str) -> int:
    value = total.get(name)
    return int(value) if isinstance(value, int | float) else 0


def _format_drift(exact: TotalValue, estimated: TotalValue) -> str:
    """Return the drift of the token counts; `~` means that only a substitute vocabulary counted."""
    if isinstance(exact, float):
        return f"{exact:+.1f}"
    return f"~{estimated:+.1f}" if isinstance(estimated, float) else "-"
