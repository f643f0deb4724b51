"""`deploy/` and the Dockerfile: queries use emitted metrics; profiles, targets, settings and extras exist."""

import asyncio
import json
import re
import shutil
import subprocess
import sysconfig
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from clara_proxy.compression.clara.async_engine import LocalClara, LocalModelConfig
from clara_proxy.compression.models.worker import WorkerLimits
from clara_proxy.config.setting_types import Mode
from clara_proxy.config.settings import ENV_PREFIX, Settings
from clara_proxy.proxy.stores.ledger import Ledger
from clara_proxy.proxy.stores.ledger_row import Outcome, Row
from clara_proxy.proxy.watch.metrics import Metrics
from clara_proxy.tests.test_docs import read_page, table_rows

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKERFILE = ROOT / "Dockerfile"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "clara-proxy.json"
PROMETHEUS_METRICS = {"up": frozenset[str]()}
PROMETHEUS_LABELS = {"job", "instance"}  # added by Prometheus to each series
KEYWORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


class Selector(NamedTuple):
    """A metric in an expression, and its label matchers."""

    metric: str
    matchers: list[tuple[str, str, str]]


def parse_selectors(expression: str) -> Iterator[Selector]:
    """Yield the metrics of a PromQL expression, without functions, keywords, groupings and units."""
    plain = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", expression)
    plain = re.sub(r"\[[^\]]*\]", " ", plain)
    plain = re.sub(r"\boffset\s+\w+", " ", plain)
    for match in SELECTOR.finditer(plain):
        name, matchers = match[1], match[2] or ""
        is_function = plain[match.end() :].lstrip().startswith("(")
        if name not in KEYWORDS and not is_function and plain[match.start() - 1 : match.start()] not in {'"', "$"}:
            yield Selector(name, MATCHER.findall(matchers))


def parse_groupings(expression: str) -> set[str]:
    """Return the grouping labels of an expression."""
    lists = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for item in lists for label in item.split(",") if label.strip()}


@cache
def collect_metrics() -> dict[str, frozenset[str]]:
    """Return the metrics that a proxy with a CLaRa model emits, and their labels."""
    clara = LocalClara(LocalModelConfig("/nowhere", None, None, "cpu", None, None), WorkerLimits())
    try:
        metrics = Metrics(Ledger("sqlite://"), clara)
        metrics.record_row(Row(id="1", at=1.0, model="m", mode_used="extract", skipped='{"late": 1}'))
        metrics.refusals["headers"] += 1
        metrics.read_store_states = lambda: {"ledger": True}
        families = list(text_string_to_metric_families(asyncio.run(metrics.render_page()).decode()))
    finally:
        clara.close()
    return {
        sample.name: frozenset(sample.labels) for family in families for sample in family.samples
    } | PROMETHEUS_METRICS


def list_values(label: str) -> set[str] | None:
    """Return the possible values of a label; None if they are not a fixed set."""
    reasons = set(table_rows(read_page("docs/steering.md").partition("## Why was a passage left unchanged?")[2]))
    known: dict[str, set[str]] = {
        "outcome": set(get_args(Outcome)),
        "mode": set(get_args(Mode)),
        "reason": {reason.strip("` ") for cell in reasons for reason in cell.split(",")},
        "job": {"clara-proxy"},
    }
    return known.get(label)


def load_alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def load_panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def load_expressions() -> list[str]:
    return [rule["expr"] for rule in load_alerts()] + [
        target["expr"] for panel in load_panels() for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", load_expressions())
def test_every_expression_uses_emitted_metrics(expression: str) -> None:
    selectors = list(parse_selectors(expression))
    assert selectors
    labels: set[str] = set()
    for metric, matchers in selectors:
        assert metric in collect_metrics(), metric
        known_labels = collect_metrics()[metric] | PROMETHEUS_LABELS
        labels |= known_labels
        for label, operator, value in matchers:
            assert label in known_labels, (metric, label)
            known_values = list_values(label)
            if known_values is not None and not value.startswith("$"):
                assert set(value.split("|")) <= known_values, (label, operator, value)
    assert parse_groupings(expression) <= labels


def test_unknown_metrics_in_expressions_are_detected() -> None:
    expression = 'sum by (le) (rate(clara_no_such_total{outcome="ok"}[5m])) / clara_requests_total offset 1h'
    assert [item.metric for item in parse_selectors(expression)] == ["clara_no_such_total", "clara_requests_total"]
    assert parse_groupings(expression) == {"le"}


def test_variables_of_the_board_use_emitted_metrics() -> None:
    board = json.loads(DASHBOARD.read_text())
    queries = [item["query"]["query"] for item in board["templating"]["list"] if item["type"] == "query"]
    assert len(queries) == 2
    for query in queries:
        metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
        assert label in collect_metrics()[metric] | PROMETHEUS_LABELS


def test_panels_of_the_board_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] for panel in load_panels())
    places = [panel["gridPos"] for panel in panels]
    squares = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(squares)) == len(squares), "panels overlap"
    assert max(x for x, _ in squares) < 24


def test_every_alert_has_a_summary_and_a_severity() -> None:
    names = [rule["alert"] for rule in load_alerts()]
    assert len(set(names)) == len(names) >= 6
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in load_alerts())


def test_every_emitted_metric_is_documented() -> None:
    page = read_page("docs/metrics.md")
    documented = set(re.findall(r"`(clara_\w+)`", page))
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in collect_metrics() if name.startswith("clara_")}
    assert documented == families


def load_services() -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    return services


def test_every_service_of_compose_is_hardened() -> None:
    for service in load_services().values():
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]
        assert service["mem_limit"]
        assert "no-new-privileges:true" in service["security_opt"]


def test_compose_mounts_existing_files() -> None:
    volumes = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["volumes"]
    sources = [volume.split(":")[0] for service in load_services().values() for volume in service["volumes"]]
    for name in sources:
        assert (DEPLOY / name).exists() if name.startswith(".") else name in volumes, name
    assert set(volumes) <= set(sources)


DATA_FOLDERS = {  # where the program of an image writes; with a read-only root, each needs a volume
    "grafana": "/var/lib/grafana",
    "postgres": "/var/lib/postgresql/data",
    "prometheus": "/prometheus",
    "proxy": "/data",
    "redis": "/data",
}


def test_compose_has_a_volume_where_each_service_writes() -> None:
    services = load_services()
    for name, folder in DATA_FOLDERS.items():
        assert any(volume.split(":")[1] == folder for volume in services[name]["volumes"]), name
    assert "--appendonly" in services["redis"]["command"]  # else the volume stays empty, and a restart loses originals


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("core", {"proxy"}),
        ("gpu", {"proxy-gpu"}),
        ("monitoring", {"prometheus", "grafana"}),
        ("full", {"proxy-full", "vllm", "postgres", "redis", "prometheus", "grafana"}),
    ],
)
def test_a_profile_of_compose_is_complete(profile: str, expected: set[str]) -> None:
    """What a service depends on, or names as a host, is in its profile; ports do not collide."""
    services = {name: service for name, service in load_services().items() if profile in service["profiles"]}
    assert set(services) == expected
    networks = [service["networks"]["default"] for service in services.values() if "networks" in service]
    hosts = {alias for network in networks for alias in network["aliases"]}
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(set(ports)) == len(ports)
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        named = re.findall(r"(?:@|//)(\w+):\d", str(service.get("environment", "")))
        assert set(named) <= set(services) | hosts, named


def test_settings_of_compose_and_the_image_exist() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    texts = [DOCKERFILE.read_text(), *(str(service.get("environment")) for service in load_services().values())]
    for text in texts:
        assert set(re.findall(r"\bCLARA_[A-Z_]+(?=\W?[=:])", text)) <= known


def parse_stages() -> dict[str, str]:
    """Return the instructions of each build stage."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_image_has_a_target_for_each_use_and_is_small_by_default() -> None:
    stages = parse_stages()
    assert list(stages)[-1] == "core"  # what `docker build .` makes
    assert {"core", "cpu", "cuda"} <= set(stages)
    for name, body in stages.items():
        for source in re.findall(r"--from=(\S+)", body):
            assert source in stages
        assert ("torch" in body or "[clara]" in body) == (name in {"build-cpu", "build-cuda"})
    for service in load_services().values():
        assert service.get("build", {"target": "core"})["target"] in stages
    for path in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        assert all((ROOT / name).exists() for name in path.split())
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for service in load_services().values():
        names: str = service.get("build", {}).get("args", {}).get("EXTRAS", "")
        assert not names or set(names.split(",")) <= set(extras)


def test_hadolint_accepts_the_dockerfile() -> None:
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_promtool_accepts_rules_and_their_tests() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (of Prometheus) is not installed")
    for argv in (["check", "rules", str(ALERTS)], ["test", "rules", str(ALERTS.with_name("alerts.test.yml"))]):
        result = subprocess.run([promtool, *argv], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
