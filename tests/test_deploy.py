"""Alerts and dashboards in `deploy/` use only metrics, labels and list_label_values that the proxy emits."""

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
PROMETHEUS_LABELS = {"job", "instance"}  # Prometheus adds these to each series
KEYWORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


class Selector(NamedTuple):
    """A metric in an expression, and the matchers of its series."""

    metric: str
    matchers: list[tuple[str, str, str]]


def find_selectors(expression: str) -> Iterator[Selector]:
    """Yield the metrics of a PromQL expression: names that are not functions, keywords, labels or units."""
    plain = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    plain = re.sub(r"\[[^\]]*\]", " ", plain)
    plain = re.sub(r"\boffset\s+\w+", " ", plain)
    for match in SELECTOR.finditer(plain):
        name, matchers = match[1], match[2] or ""
        is_call = plain[match.end() :].lstrip().startswith("(")
        if name not in KEYWORDS and not is_call and plain[match.start() - 1 : match.start()] not in {'"', "$"}:
            yield Selector(name, MATCHER.findall(matchers))


def find_grouping_labels(expression: str) -> set[str]:
    """Return the labels that an expression groups by."""
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for labels in lists for label in labels.split(",") if label.strip()}


@cache
def list_emitted_metrics() -> dict[str, frozenset[str]]:
    """Return the labels of each metric that a proxy with CLaRa emits."""
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


def list_label_values(label: str) -> set[str] | None:
    """Return the possible list_label_values of a label, or None if they are not a closed set."""
    reasons = set(table_rows(read_page("docs/steering.md").partition("## Why a passage was left alone")[2]))
    closed_sets: dict[str, set[str]] = {
        "outcome": set(get_args(Outcome)),
        "mode": set(get_args(Mode)),
        "reason": {reason.strip("` ") for cell in reasons for reason in cell.split(",")},
        "job": {"clara-proxy"},
    }
    return closed_sets.get(label)


def read_alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def read_panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def read_expressions() -> list[str]:
    return [rule["expr"] for rule in read_alerts()] + [
        target["expr"] for panel in read_panels() for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", read_expressions())
def test_expressions_use_existing_metrics_and_labels(expression: str) -> None:
    metrics = list(find_selectors(expression))
    assert metrics
    labels: set[str] = set()
    for metric, matchers in metrics:
        assert metric in list_emitted_metrics(), metric
        metric_labels = list_emitted_metrics()[metric] | PROMETHEUS_LABELS
        labels |= metric_labels
        for label, operator, value in matchers:
            assert label in metric_labels, (metric, label)
            closed = list_label_values(label)
            if closed is not None and not value.startswith("$"):
                assert set(value.split("|")) <= closed, (label, operator, value)
    assert find_grouping_labels(expression) <= labels


def test_selectors_find_unknown_metrics() -> None:
    wrong = 'sum by (le) (rate(clara_no_such_total{outcome="ok"}[5m])) / clara_requests_total offset 1h'
    assert [selector.metric for selector in find_selectors(wrong)] == ["clara_no_such_total", "clara_requests_total"]
    assert find_grouping_labels(wrong) == {"le"}


def test_dashboard_variables_use_existing_metrics_and_labels() -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [variable["query"]["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        assert label in list_emitted_metrics()[metric] | PROMETHEUS_LABELS


def test_panels_are_complete_and_do_not_overlap() -> None:
    all_panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in all_panels}) == len(all_panels)
    assert all(panel["title"] and panel["description"] for panel in read_panels())
    positions = [panel["gridPos"] for panel in all_panels]
    cells = [
        (x, y)
        for position in positions
        for x in range(position["x"], position["x"] + position["w"])
        for y in range(position["y"], position["y"] + position["h"])
    ]
    assert len(set(cells)) == len(cells), "panels overlap"
    assert max(x for x, _ in cells) < 24


def test_alerts_have_a_summary_and_a_severity() -> None:
    names = [rule["alert"] for rule in read_alerts()]
    assert len(set(names)) == len(names) >= 6
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in read_alerts())


def test_every_emitted_metric_is_described() -> None:
    page = read_page("docs/metrics.md")
    described = set(re.findall(r"`(clara_\w+)`", page))
    families = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in list_emitted_metrics() if name.startswith("clara_")
    }
    assert described == families


def test_compose_volumes_exist() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    sources = [volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]]
    for source in sources:
        assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"], source


def test_promtool_accepts_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (of Prometheus) is not installed")
    for argv in (["check", "rules", str(ALERTS)], ["test", "rules", str(ALERTS.with_name("alerts.test.yml"))]):
        process = subprocess.run([promtool, *argv], capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout + process.stderr
