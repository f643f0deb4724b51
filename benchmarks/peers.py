"""The proxies that overhead.py compares: how each is installed and started with one worker in front of an upstream.

Each lives in a virtual environment of its own under .bench/, made when it is first asked for, never in the project's.
All are set up as their own documentation says for an OpenAI-compatible upstream, with compression as it comes, and with
what would spoil the comparison switched off: caches of whole answers, rate limits, key checks, telemetry. A package
that wants torch must name a pinned CPU build in `first`, or gigabytes of CUDA come along; none of these wants it.
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
    """`first`: what is installed, and weighed, before `package`; `start(bin, base, port)` gives the command line.

    `bin` is the directory of the environment's programs, `base` the upstream without `/v1`.
    """

    distribution: str
    package: Sequence[str]
    build_command: Callable[[Path, str, int], Command]
    preinstalled: Sequence[str] = ()


class InstallSize(NamedTuple):
    """An environment's site-packages without pip and setuptools, MB; `first_mb`: after `Peer.first` alone."""

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
    """clara-proxy with its own defaults."""
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
    kept = [path for path in site.iterdir() if not path.name.startswith(tools)]
    files = (file for path in kept for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink()) / 1e6


def _run_pip(home: Path, *arguments: str) -> None:
    subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", *arguments], check=True, stderr=subprocess.DEVNULL)


def _read_version(home: Path, distribution: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({distribution!r}))"
    done = subprocess.run([str(home / "bin" / "python"), "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def install_peer(name: str) -> tuple[Path, InstallSize]:
    """The programs of a peer's environment, and what it weighs; made now, with pip, unless it is there."""
    peer, home = PEERS[name], BENCH / name
    note = home / "size.json"
    if not note.exists():
        print(f"installing {name} into .bench/{name}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        first = 0.0
        if peer.preinstalled:
            _run_pip(home, *peer.preinstalled)
            first = _measure_size(home)
        _run_pip(home, *peer.package)
        note.write_text(json.dumps(InstallSize(_read_version(home, peer.distribution), _measure_size(home), first)))
    return home / "bin", InstallSize(*json.loads(note.read_text()))
