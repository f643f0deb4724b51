"""Results of shadow checks: how often the compressed and the uncompressed request got the same answer.

Each share comes with its 95 % confidence interval (Wilson's), because a few checks prove little.
"""

from math import sqrt
from typing import NamedTuple, cast

import orjson
from sqlalchemy import select

from ..stores.ledger import Ledger
from ..stores.ledger_schema import LEDGER_TABLE

Z_SCORE = 1.96  # standard deviations that contain 95 % of a normal distribution


class AgreementShare(NamedTuple):
    """`same` of `asked` checks, and the bounds of the 95 % confidence interval."""

    same: int
    asked: int
    low: float
    high: float


class Agreement(NamedTuple):
    """The number of checks, how many `failed`, and their `cost` in dollars (None if unknown).

    `text` is the mean similarity of the texts from 0 to 1, None without texts. `unpriced` checks have an unknown cost,
    which `cost` does not include.
    """

    checks: int
    failed: int
    cost: float | None
    tools: AgreementShare
    arguments: AgreementShare
    text: float | None
    unpriced: int = 0


def compute_share(same: int, asked: int) -> AgreementShare:
    """Return a share with Wilson's interval; without checks the interval is 0 to 1."""
    if not asked:
        return AgreementShare(0, 0, 0.0, 1.0)
    part, weight = same / asked, Z_SCORE * Z_SCORE / asked
    middle = (part + weight / 2) / (1 + weight)
    half = Z_SCORE * sqrt(part * (1 - part) / asked + weight / (4 * asked)) / (1 + weight)
    return AgreementShare(same, asked, max(0.0, middle - half), min(1.0, middle + half))


async def read_agreement(ledger: Ledger, since: float, until: float | None = None) -> Agreement | None:
    """Return the results from `since` to before `until` (Unix seconds); None without checks."""
    query = select(LEDGER_TABLE.c.agreement, LEDGER_TABLE.c.cost).where(
        LEDGER_TABLE.c.shadow_of != "", LEDGER_TABLE.c.at >= since
    )
    if until is not None:
        query = query.where(LEDGER_TABLE.c.at < until)
    async with ledger.engine.connect() as connection:
        rows = [(_parse_agreement(str(row[0])), row[1]) for row in await connection.execute(query)]
    if not rows:
        return None
    results = [result for result, _ in rows if result]
    costs = [float(cost) for _, cost in rows if cost is not None]
    tools, arguments, text = (
        [result[name] for result in results if name in result] for name in ("tools", "arguments", "text")
    )
    return Agreement(
        len(rows),
        len(rows) - len(results),
        sum(costs) if costs else None,
        compute_share(sum(score == 1 for score in tools), len(tools)),
        compute_share(sum(score == 1 for score in arguments), len(arguments)),
        sum(text) / len(text) if text else None,
        sum(cost is None for result, cost in rows if result),
    )


def serialize_agreement(agreement: Agreement) -> dict[str, object]:
    """Return the results as plain JSON."""
    shares = {"tools": agreement.tools._asdict(), "arguments": agreement.arguments._asdict()}
    return {**agreement._asdict(), **shares}


def format_agreement(agreement: Agreement) -> str:
    """Return the results as a sentence."""
    parts = [
        f"the same {name} in {share.same:,} of {share.asked:,} ({share.low:.0%} to {share.high:.0%})"
        for name, share in (("tools", agreement.tools), ("arguments", agreement.arguments))
        if share.asked
    ]
    if agreement.text is not None:
        parts.append(f"{agreement.text:.0%} of the text is the same")
    failed = f", {agreement.failed:,} without an answer" if agreement.failed else ""
    results = "; ".join(parts) or "nothing to compare"
    return f"Shadow checks: {agreement.checks:,}{failed}, {_format_cost(agreement)}: {results}."


def _format_cost(agreement: Agreement) -> str:
    if agreement.cost is None:
        return "cost unknown"
    excluded = f" without {agreement.unpriced:,} whose cost is unknown" if agreement.unpriced else ""
    return f"for ${agreement.cost:,.4f}{excluded}"


def _parse_agreement(text: str) -> dict[str, float]:
    return cast("dict[str, float]", orjson.loads(text))
