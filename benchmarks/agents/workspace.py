"""The project in which each client works: four files to edit, and a command that prints a long log."""

from pathlib import Path
from typing import NamedTuple

CHECK_COMMAND = "python3 tools/check.py"
ERROR_LINE = "ERROR pricing.rounding order=4711 expected=119.00 actual=118.99 rule=half-even"


class Edit(NamedTuple):
    """A file, and the line in it that the task changes."""

    path: str
    old: str
    new: str


EDITS = (
    Edit("shop/pricing.py", 'ROUNDING = "half-even"', 'ROUNDING = "half-up"'),
    Edit("deploy/service.yaml", "    rounding: half-even", "    rounding: half-up"),
    Edit(
        "db/schema.sql", "  rounding text NOT NULL DEFAULT 'half-even',", "  rounding text NOT NULL DEFAULT 'half-up',"
    ),
    Edit("docs/pricing.md", "Rounding is half-even.", "Rounding is half-up."),
)
TASK = (
    f"Run `{CHECK_COMMAND}` and find out why it fails. Then read shop/pricing.py, deploy/service.yaml, db/schema.sql "
    "and docs/pricing.md, and change the rounding from half-even to half-up in each of them."
)
_REGIONS = (
    "berlin",
    "lisbon",
    "madrid",
    "oslo",
    "paris",
    "porto",
    "riga",
    "rome",
    "sofia",
    "tallinn",
    "turin",
    "vienna",
)


def create_workspace(folder: Path) -> None:
    """Write the project's files into an empty folder."""
    for path, text in build_files().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def build_files() -> dict[str, str]:
    """Return the texts of the files by their paths."""
    return {
        "shop/pricing.py": _build_source(),
        "deploy/service.yaml": _build_config(),
        "db/schema.sql": _build_schema(),
        "docs/pricing.md": _build_documentation(),
        "tools/check.py": _CHECK,
    }


def build_expected_files() -> dict[str, str]:
    """Return the texts of the files after the task."""
    files = build_files()
    return files | {edit.path: files[edit.path].replace(edit.old, edit.new) for edit in EDITS}


def _build_source() -> str:
    head = '"""Prices of orders."""\n\nfrom decimal import Decimal\n\nROUNDING = "half-even"\n'
    functions = [
        f"def price_{region}(net: Decimal, quantity: int = 1) -> Decimal:\n"
        f'    """Return the gross price in {region.title()}."""\n'
        f'    rate = Decimal("0.{number + 11}")\n'
        f"    if quantity > {number * 5 + 10}:\n"
        f'        net = net * Decimal("0.9{number % 10}")\n'
        f"    return round_price(net * quantity * (1 + rate), ROUNDING)\n"
        for number, region in enumerate(_REGIONS)
    ]
    return "\n\n".join([head, *functions])


def _build_config() -> str:
    regions = "".join(
        f"  {region}:\n    enabled: true\n    replicas: {number % 4 + 1}\n    image: registry.local/shop:{number}.4.1\n"
        f"    memory: {128 * (number + 1)}Mi\n    rounding: half-{'even' if number == 5 else 'down'}\n"
        for number, region in enumerate(_REGIONS)
    )
    return f"service: shop\nport: 8080\nregions:\n{regions}"


def _build_schema() -> str:
    tables = [
        f"CREATE TABLE orders_{region} (\n  id bigint PRIMARY KEY,\n  customer_{region} bigint NOT NULL,\n"
        f"  amount numeric(12, 2) NOT NULL CHECK (amount > {number}),\n"
        + ("  rounding text NOT NULL DEFAULT 'half-even',\n" if number == 7 else "")
        + f"  created_at timestamptz NOT NULL DEFAULT now()\n);\n"
        f"CREATE INDEX orders_{region}_created ON orders_{region} (created_at);\n"
        for number, region in enumerate(_REGIONS)
    ]
    return "\n".join(tables)


def _build_documentation() -> str:
    sections = [
        f"## {region.title()}\n\nOrders from {region.title()} are taxed at {number + 11} percent. "
        f"From {number * 5 + 10} items on, a discount of {10 - number % 10} percent applies. "
        f"Invoices are sent on day {number + 3} of the month that follows the delivery.\n"
        + ("\nRounding is half-even.\n" if number == 8 else "")
        for number, region in enumerate(_REGIONS)
    ]
    return "\n".join(["# Pricing\n\nHow each region computes its prices.\n", *sections])


_CHECK = f'''"""Checks the prices of recorded orders."""

for number in range(260):
    clock = f"2026-11-29 10:{{number // 60:02d}}:{{number % 60:02d}}"
    print(f"{{clock}} INFO pricing.check order={{4580 + number}} region={{number % 12}} took={{number * 7 % 13}}ms ok")
    if number == 41:
        print(f"{{clock}} {ERROR_LINE}")
print("1 of 260 orders failed")
'''
