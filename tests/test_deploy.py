"""What `deploy/` asks Prometheus for is what the proxy emits: every metric, every label, every value of a known set."""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from clara_proxy.compression.clara.async_engine import LocalClara, LocalModelConfig
from clara_proxy.compression.clara.worker import WorkerLimits
from clara_proxy.config.settings import Mode
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Outcome, Row
from clara_proxy.proxy.watch.metrics import Metrics
from clara_proxy.tests.test_docs import read_page, table_rows

DEPLOY = Path(__file__).parents[1] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "clara-proxy.json"
PROMETHEUS_METRICS = {"up": frozenset[str]()}
PROMETHEUS_LABELS = {"job", "instance"}  # which Prometheus itself puts on every series
KEYWORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


class Selector(NamedTuple):
    """A metric that an expression asks for, and how it picks the series."""

    metric: str
    matchers: list[tuple[str, str, str]]


def selectors(expression: str) -> Iterator[Selector]:
    """Find the metrics of a PromQL expression: the names that are no function, keyword, grouping or unit."""
    plain = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    plain = re.sub(r"\[[^\]]*\]", " ", plain)
    plain = re.sub(r"\boffset\s+\w+", " ", plain)
    for found in SELECTOR.finditer(plain):
        name, picked = found[1], found[2] or ""
        called = plain[found.end() :].lstrip().startswith("(")
        if name not in KEYWORDS and not called and plain[found.start() - 1 : found.start()] not in {'"', "$"}:
            yield Selector(name, MATCHER.findall(picked))


def grouped(expression: str) -> set[str]:
    """Return the labels that an expression groups by."""
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for one in lists for label in one.split(",") if label.strip()}


@cache
def emitted() -> dict[str, frozenset[str]]:
    """Return the labels of every series that a proxy with a CLaRa emits."""
    clara = LocalClara(LocalModelConfig("/nowhere", None, None, "cpu", None, None), WorkerLimits())
    try:
        metrics = Metrics(Ledger("sqlite://"), clara)
        metrics.record_row(Row(id="1", at=1.0, model="m", mode_used="extract", skipped='{"late": 1}'))
        families = list(text_string_to_metric_families(asyncio.run(metrics.render_page()).decode()))
    finally:
        clara.close()
    return {
        sample.name: frozenset(sample.labels) for family in families for sample in family.samples
    } | PROMETHEUS_METRICS


def values(label: str) -> set[str] | None:
    """Return the values that a label can have, where they are a closed set."""
    reasons = set(table_rows(read_page("docs/steering.md").partition("## Why a passage was left alone")[2]))
    known: dict[str, set[str]] = {
        "outcome": set(get_args(Outcome)),
        "mode": set(get_args(Mode)),
        "reason": {reason.strip("` ") for cell in reasons for reason in cell.split(",")},
        "job": {"clara-proxy"},
    }
    return known.get(label)


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    return [rule["expr"] for rule in alerts()] + [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_asks_for_what_is_there(expression: str) -> None:
    asked = list(selectors(expression))
    assert asked
    labels: set[str] = set()
    for metric, matchers in asked:
        assert metric in emitted(), metric
        here = emitted()[metric] | PROMETHEUS_LABELS
        labels |= here
        for label, operator, wanted in matchers:
            assert label in here, (metric, label)
            closed = values(label)
            if closed is not None and not wanted.startswith("$"):
                assert set(wanted.split("|")) <= closed, (label, operator, wanted)
    assert grouped(expression) <= labels


def test_what_asks_for_nothing_that_is_there_is_found_out() -> None:
    wrong = 'sum by (le) (rate(clara_no_such_total{outcome="ok"}[5m])) / clara_requests_total offset 1h'
    assert [one.metric for one in selectors(wrong)] == ["clara_no_such_total", "clara_requests_total"]
    assert grouped(wrong) == {"le"}


def test_the_variables_of_the_board_ask_for_what_is_there() -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [one["query"]["query"] for one in board["templating"]["list"] if one["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        assert label in emitted()[metric] | PROMETHEUS_LABELS


def test_the_board_is_whole() -> None:
    every = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert all(panel["title"] and panel["description"] for panel in panels())
    places = [panel["gridPos"] for panel in every]
    squares = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(squares)) == len(squares), "panels lie over one another"
    assert max(x for x, _ in squares) < 24


def test_alerts_say_what_is_wrong_and_how_badly() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names) >= 6
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in alerts())


def test_every_emitted_metric_is_described() -> None:
    page = read_page("docs/metrics.md")
    described = set(re.findall(r"`(clara_\w+)`", page))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in emitted() if name.startswith("clara_")}
    assert described == families


def test_compose_names_files_that_are_there() -> None:
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    named = [volume.split(":")[0] for service in composed["services"].values() for volume in service["volumes"]]
    for name in named:
        assert (DEPLOY / name).exists() if name.startswith(".") else name in composed["volumes"], name


def test_promtool_finds_nothing_wrong() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (of Prometheus) is not installed")
    for argv in (["check", "rules", str(ALERTS)], ["test", "rules", str(ALERTS.with_name("alerts.test.yml"))]):
        done = subprocess.run([promtool, *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
