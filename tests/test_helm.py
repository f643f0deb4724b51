"""The Helm chart: its default values are valid, it knows the proxy's settings, and helm accepts it where installed."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from clara_proxy.config.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "helm" / "clara-proxy"
FORMULA = ROOT / "deploy" / "homebrew" / "clara-proxy.rb"
SCHEMA: Any = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
VALUES: Any = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))


def read_templates() -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted((CHART / "templates").iterdir()))


def test_default_values_fit_the_schema_and_name_known_settings() -> None:
    jsonschema.validate(VALUES, SCHEMA)
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    assert set(VALUES["settings"]) <= known
    assert set(re.findall(r"CLARA_[A-Z_]+_URL", read_templates())) <= known
    assert VALUES.keys() <= SCHEMA["properties"].keys()


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 0},
        {"replica": 2},
        {"settings": {"clara_mode": "off"}},
        {"persistence": {"size": "lots"}},
        {"service": {"port": 0}},
    ],
)
def test_schema_refuses_invalid_values(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(VALUES | change, SCHEMA)


def test_templates_read_only_values_that_exist() -> None:
    used = set(re.findall(r"\.Values\.([A-Za-z.]+)", read_templates()))
    assert len(used) > 30
    for path in used:
        value = VALUES
        for name in path.split("."):
            assert name in value, path
            value = value[name]


def test_versions_are_those_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["version"], chart["appVersion"]) == (version, version)
    assert f"clara_proxy-{version}.tar.gz" in (ROOT / "deploy" / "homebrew" / "clara-proxy.rb").read_text(
        encoding="utf-8"
    )


@pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")
def test_helm_accepts_the_chart() -> None:
    subprocess.run(["helm", "lint", "--strict", str(CHART)], check=True)
    subprocess.run(["helm", "template", "demo", str(CHART)], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("ruby") is None, reason="ruby is not installed")
def test_formula_is_valid_ruby() -> None:
    subprocess.run(["ruby", "-wc", str(FORMULA)], check=True)
