"""The list of the ledger's columns and totals, and the table about it in `docs/ledger.md`."""

from pathlib import Path

from clara_proxy.proxy.stores.ledger_columns import DOLLAR_SUMS, LEDGER_COLUMNS, TOTAL_NAMES, TOTALS
from clara_proxy.proxy.stores.ledger_row import Row

DOCS = Path(__file__).parents[3] / "docs" / "ledger.md"
TYPES = {"Text": "text", "BigInteger": "integer", "Double": "number", "Boolean": "boolean"}


def render_table() -> str:
    """Return the table of all columns in Markdown."""
    rows = [("column", "type", "description"), ("---", "---", "---")]
    for name, column in LEDGER_COLUMNS.items():
        rows.append((f"`{name}`", TYPES[column.sql_type.__name__], column.help.removesuffix(".")))
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def test_the_documentation_lists_every_column() -> None:
    assert DOCS.read_text().endswith(render_table())


def test_columns_are_described_and_in_the_order_of_a_row() -> None:
    assert tuple(LEDGER_COLUMNS) == Row._fields
    assert all(column.help.endswith(".") for column in LEDGER_COLUMNS.values())
    optional = {name for name, column in LEDGER_COLUMNS.items() if column.is_nullable}
    assert optional == {name for name, default in Row._field_defaults.items() if default is None}


def test_totals_refer_to_existing_columns_and_totals() -> None:
    assert len({*TOTAL_NAMES}) == len(TOTALS)
    assert {name for total in TOTALS for name in total.amount} <= {*LEDGER_COLUMNS}
    assert {*DOLLAR_SUMS.values()} <= {*TOTAL_NAMES}
    assert all(total.metric for total in TOTALS if total.negative_metric)
