"""Install and start the proxies that `overhead` compares, with one worker in front of an upstream.

Each peer has its own virtual environment in .bench/, created on first use. The configuration follows each peer's
documentation for an OpenAI-compatible upstream, with its default compression. Response caches, rate limits, key checks
and telemetry are off. A peer that depends on torch must name a pinned CPU build in `preinstalled`, or pip installs
gigabytes of CUDA libraries; none of these does.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .load import BENCH, MODEL
from .servers import Command

ROOT = BENCH.parent
CLARA_NAME = "clara-proxy"

_LITELLM_CONFIG = """\
model_list:
  - model_name: {model}
    litellm_params:
      model: openai/{model}
      api_base: {base}/v1
      api_key: sk-bench
"""


class Peer(NamedTuple):
    """A proxy's distribution name, the requirements to install, and its command.

    `build_command` takes the `bin` folder of the environment, the upstream's URL without `/v1`, and the port.
    `preinstalled` is installed first and measured on its own.
    """

    distribution: str
    requirements: Sequence[str]
    build_command: Callable[[Path, str, int], Command]
    preinstalled: Sequence[str] = ()


class InstallSize(NamedTuple):
    """The size of site-packages in MB, without pip and setuptools; `first_mb` is the size of `Peer.preinstalled`."""

    version: str
    total_mb: float
    first_mb: float


def _build_litellm_command(programs: Path, base: str, port: int) -> Command:
    config = BENCH / "litellm.yaml"
    config.write_text(_LITELLM_CONFIG.format(model=MODEL, base=base))
    argv = [str(programs / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    env = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    return Command("litellm", [*argv, "--num_workers", "1"], port, env)


def _build_headroom_command(programs: Path, base: str, port: int) -> Command:
    argv = [str(programs / "headroom"), "proxy", "--port", str(port), "--openai-api-url", base, "--no-telemetry"]
    return Command("headroom", [*argv, "--no-cache", "--no-rate-limit", "--no-subscription-tracking"], port)


def _build_kompact_command(programs: Path, base: str, port: int) -> Command:
    argv = [str(programs / "kompact"), "proxy", "--host", "127.0.0.1", "--port", str(port), "--no-otel"]
    return Command("kompact", [*argv, "--openai-base-url", base], port)


def build_clara_command(programs: Path, base: str, port: int) -> Command:
    """Return the command of clara-proxy with its default settings."""
    data = BENCH / "clara-data"
    env = {"CLARA_UPSTREAM_BASE_URL": f"{base}/v1", "CLARA_PORT": str(port), "CLARA_DATA_DIR": str(data)}
    return Command(CLARA_NAME, [str(programs / CLARA_NAME), "serve"], port, env)


PEERS = {
    CLARA_NAME: Peer(CLARA_NAME, ["--editable", str(ROOT)], build_clara_command, ["litellm"]),
    "litellm": Peer("litellm", ["litellm[proxy]"], _build_litellm_command),
    "headroom": Peer("headroom-ai", ["headroom-ai[proxy]"], _build_headroom_command),
    "kompact": Peer("kompact", ["kompact"], _build_kompact_command),
}


def _measure_size(home: Path) -> float:
    site = next(home.glob("lib/python*/site-packages"))
    tools = ("pip", "setuptools", "pkg_resources", "_distutils_hack")
    paths = [path for path in site.iterdir() if not path.name.startswith(tools)]
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e6


def _run_pip(home: Path, *arguments: str) -> None:
    subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", *arguments], check=True, stderr=subprocess.DEVNULL)


def _read_version(home: Path, distribution: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    process = subprocess.run([str(home / "bin" / "python"), "-c", code], check=True, capture_output=True, text=True)
    return process.stdout.strip()


def install_peer(name: str) -> tuple[Path, InstallSize]:
    """Install a peer with pip unless it is installed; return the `bin` folder of its environment and its size."""
    peer, home = PEERS[name], BENCH / name
    size_file = home / "size.json"
    if not size_file.exists():
        print(f"installing {name} into .bench/{name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        first_mb = 0.0
        if peer.preinstalled:
            _run_pip(home, *peer.preinstalled)
            first_mb = _measure_size(home)
        _run_pip(home, *peer.requirements)
        size = InstallSize(_read_version(home, peer.distribution), _measure_size(home), first_mb)
        size_file.write_text(json.dumps(size))
    return home / "bin", InstallSize(*json.loads(size_file.read_text()))
