"""What shadow checks have found: how often the answer to the shortened request was the one to the whole request.

A share is told with its 95 % interval (Wilson's), because a few checks say little.
"""

from math import sqrt
from typing import NamedTuple, cast

import orjson
from sqlalchemy import select

from ..stores.ledger import Ledger
from ..stores.ledger_schema import LEDGER_TABLE

Z_SCORE = 1.96  # standard deviations that hold 95 % of a normal distribution


class AgreementShare(NamedTuple):
    """`same` of `asked`, with the bounds between which the true share lies with 95 % confidence."""

    same: int
    asked: int
    low: float
    high: float


class Agreement(NamedTuple):
    """`checks` that were made, `failed` ones among them, and their `cost` in dollars; None where no price is known.

    `text` is how alike the texts were on average, from 0 to 1; None where there were none. `unpriced` checks were
    answered, and their price is not known; the cost leaves them out.
    """

    checks: int
    failed: int
    cost: float | None
    tools: AgreementShare
    arguments: AgreementShare
    text: float | None
    unpriced: int = 0


def compute_share(same: int, asked: int) -> AgreementShare:
    """Return a share with Wilson's interval; of nothing asked it is all that is possible."""
    if not asked:
        return AgreementShare(0, 0, 0.0, 1.0)
    part, weight = same / asked, Z_SCORE * Z_SCORE / asked
    middle = (part + weight / 2) / (1 + weight)
    half = Z_SCORE * sqrt(part * (1 - part) / asked + weight / (4 * asked)) / (1 + weight)
    return AgreementShare(same, asked, max(0.0, middle - half), min(1.0, middle + half))


async def read_agreement(ledger: Ledger, since: float, until: float | None = None) -> Agreement | None:
    """Return what the checks from `since` to before `until` (Unix seconds) have found; None when there were none."""
    wanted = select(LEDGER_TABLE.c.agreement, LEDGER_TABLE.c.cost).where(
        LEDGER_TABLE.c.shadow_of != "", LEDGER_TABLE.c.at >= since
    )
    if until is not None:
        wanted = wanted.where(LEDGER_TABLE.c.at < until)
    async with ledger.engine.connect() as connection:
        rows = [(_parse_agreement(str(row[0])), row[1]) for row in await connection.execute(wanted)]
    if not rows:
        return None
    found = [figures for figures, _ in rows if figures]
    costs = [float(cost) for _, cost in rows if cost is not None]
    shares = [[figures[name] for figures in found if name in figures] for name in ("tools", "arguments", "text")]
    tools, arguments, text = shares
    return Agreement(
        len(rows),
        len(rows) - len(found),
        sum(costs) if costs else None,
        compute_share(sum(one == 1 for one in tools), len(tools)),
        compute_share(sum(one == 1 for one in arguments), len(arguments)),
        sum(text) / len(text) if text else None,
        sum(cost is None for figures, cost in rows if figures),
    )


def serialize_agreement(found: Agreement) -> dict[str, object]:
    """Return it as plain JSON."""
    return {**found._asdict(), "tools": found.tools._asdict(), "arguments": found.arguments._asdict()}


def format_agreement(found: Agreement) -> str:
    """Write it down in a sentence or two."""
    parts = [
        f"the same {name} in {one.same:,} of {one.asked:,} ({one.low:.0%} to {one.high:.0%})"
        for name, one in (("tools", found.tools), ("arguments", found.arguments))
        if one.asked
    ]
    if found.text is not None:
        parts.append(f"texts alike to {found.text:.0%}")
    failed = f", {found.failed:,} without an answer" if found.failed else ""
    said = "; ".join(parts) or "nothing to compare"
    return f"Shadow checks: {found.checks:,}{failed}, {_format_cost(found)}: {said}."


def _format_cost(found: Agreement) -> str:
    if found.cost is None:
        return "at a price that is not known"
    left_out = f" without {found.unpriced:,} whose price is not known" if found.unpriced else ""
    return f"for ${found.cost:,.4f}{left_out}"


def _parse_agreement(text: str) -> dict[str, float]:
    return cast("dict[str, float]", orjson.loads(text))
