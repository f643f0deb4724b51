"""Compares extraction with peers: the same passages in one run, each at the size of the peer's output.

A peer runs in a virtual environment of its own outside the repository, installed with pip on first use, and
`peer_shorten.py` drives it over standard input and output. A peer without an option for the size runs once; litellm
runs at 2x, 4x and 10x. Then our compressor gets the number of tokens of the peer's output as its target; a passage left
unchanged by the peer stays unchanged. Both times include counting tokens. Peers get no key, send no telemetry and
download nothing; features that need these are reported as missing.
"""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from time import perf_counter
from types import TracebackType
from typing import Any

from ..compression import registry
from ..compression.compressor import Task
from ..compression.markers import render
from ..compression.tokens import TokenCounter, get_token_counter
from .retention_cases import Case, count_survivors

PEERS_FOLDER = Path.home() / ".cache" / "clara-proxy" / "peers"
SCRIPT = Path(__file__).with_name("peer_shorten.py")
PACKAGES = {"headroom": "headroom-ai[proxy]", "litellm": "litellm", "kompact": "kompact"}
PEER_SHARES: dict[str, Sequence[float]] = {"litellm": (1 / 2, 1 / 4, 1 / 10)}
OWN_SHARE: Sequence[float] = (0.0,)  # the peer chooses the size
VOCABULARY_GLOB = "lib/python3*/site-packages/litellm/litellm_core_utils/tokenizers"
PEER_ENVIRONMENT = {
    "HEADROOM_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "OMP_NUM_THREADS": "1",
}


def ensure_environment(name: str) -> Path:
    """Return the folder of a peer's environment; create it if necessary."""
    home = PEERS_FOLDER / name
    marker = home / "made"
    if not marker.exists():
        print(f"installing {PACKAGES[name]} into {home}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", PACKAGES[name]], check=True)
        marker.touch()
    return home


class PeerProcess:
    """A running peer that compresses one passage after the other."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        vocabularies = next(home.glob(VOCABULARY_GLOB), None)  # headroom and litellm would download them
        vocabulary_environment = {"TIKTOKEN_CACHE_DIR": str(vocabularies)} if vocabularies else {}
        argv = [str(home / "bin" / "python"), str(SCRIPT), name]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**PEER_ENVIRONMENT, **vocabulary_environment, "HOME": str(home), "PATH": str(home / "bin")},
        )

    def __enter__(self) -> "PeerProcess":
        """Read the version of the peer."""
        greeting = self._read_reply()
        self.version, self.missing = str(greeting["version"]), str(greeting["missing"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the peer."""
        self._process.kill()
        self._process.communicate()

    def compress_case(self, case: Case, share: float) -> dict[str, Any]:
        """Return the `text` of the peer, its `seconds`, and the `error` if it failed."""
        assert self._process.stdin is not None
        request = {"text": case.text, "question": case.question, "share": share}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read_reply()

    def _read_reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            message = f"{self.name} ended without an answer"
            raise RuntimeError(message)
        reply: dict[str, Any] = json.loads(line)
        return reply


@dataclass(slots=True)
class SideTotals:
    """The totals of one side over the passages of a row."""

    survived_literals: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class PairTotals:
    """The totals of a peer and ours on the same passages. `touched` and `failed` count passages of the peer."""

    wanted_literals: int = 0
    tokens_before: int = 0
    passages: int = 0
    touched: int = 0
    failed: int = 0
    peer: SideTotals = field(default_factory=SideTotals)
    ours: SideTotals = field(default_factory=SideTotals)


PairKey = tuple[str, str, float]


def sample_cases(cases: Iterable[Case], most: int, seed: int) -> list[Case]:
    """Return a seeded sample of at most `most` passages of each data file and kind."""
    kinds: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        kinds[f"{case.data}:{case.kind}"].append(case)
    samples = [
        Random(f"{seed} {name}").sample(sample, min(most, len(sample))) for name, sample in sorted(kinds.items())
    ]
    return [case for sample in samples for case in sample]


def compress_with_ours(case: Case, target: int, total: int) -> tuple[str, float]:
    """Compress a passage to so many tokens with our compressor; return its text unchanged if it fits."""
    if target >= total:
        return case.text, 0.0
    counter = TokenCounter(get_token_counter("gpt-4").name, is_exact=True)  # without a memo, as peers count
    start = perf_counter()
    counter.count(case.text)
    passage = registry.find_compressor(case.text).compress(
        Task(case.text, case.question, max(1, target), counter.count)
    )
    text = case.text if passage is None else render(passage, None)
    counter.count(text)
    return text, perf_counter() - start


def compare_case(case: Case, peer: PeerProcess, share: float, pairs: dict[PairKey, PairTotals]) -> None:
    """Compress a passage with a peer, then with ours to the same size, and add both to the totals."""
    count = get_token_counter("gpt-4").count
    reply = peer.compress_case(case, share)
    total, after = count(case.text), count(reply["text"])
    text, seconds = compress_with_ours(case, after, total)
    sides = ((reply["text"], after, float(reply["seconds"])), (text, count(text), seconds))
    for literal_kind, literals in case.answers.items():
        for row in case.list_row_names(literal_kind) if literals else ():
            pair = pairs.setdefault((row, peer.name, share), PairTotals())
            pair.wanted_literals += count_survivors(literals, literal_kind, "")[1]
            pair.tokens_before += total
            pair.passages += 1
            pair.touched += reply["text"] != case.text
            pair.failed += "error" in reply
            for side, (output, tokens, side_seconds) in zip((pair.peer, pair.ours), sides, strict=True):
                side.survived_literals += count_survivors(literals, literal_kind, output)[0]
                side.tokens += tokens
                side.seconds += side_seconds


def compute_shares(pair: PairTotals) -> dict[str, float | int]:
    """Return the totals of a pair as shares, and as milliseconds per ten thousand tokens."""
    result: dict[str, float | int] = {
        "passages": pair.passages,
        "literals": pair.wanted_literals,
        "failed": pair.failed,
    }
    result["touched"] = round(pair.touched / max(1, pair.passages), 3)
    for name, side in (("peer", pair.peer), ("ours", pair.ours)):
        result[f"{name}_survived"] = round(side.survived_literals / max(1, pair.wanted_literals), 4)
        result[f"{name}_kept"] = round(side.tokens / max(1, pair.tokens_before), 4)
        result[f"{name}_ms"] = round(side.seconds * 1e7 / max(1, pair.tokens_before), 2)
    return result


def format_table(pairs: dict[PairKey, PairTotals]) -> Iterator[str]:
    """Yield the lines of the table: one per row, peer and size."""
    header = f"{'peer alive':>11}{'kept':>6}{'ms/10k':>8}{'ours alive':>12}{'kept':>6}{'ms/10k':>8}"
    yield f"{'data':<34}{'peer':<10}{'size':>6}{'touched':>9}{header}"
    for (row, name, share), pair in sorted(pairs.items()):
        shares = compute_shares(pair)
        size = f"{1 / share:g}x" if share else "own"
        yield (
            f"{row:<34}{name:<10}{size:>6}{shares['touched']:>9.2f}{shares['peer_survived']:>11.3f}{shares['peer_kept']:>6.2f}"
            f"{shares['peer_ms']:>8.1f}{shares['ours_survived']:>12.3f}{shares['ours_kept']:>6.2f}{shares['ours_ms']:>8.1f}"
        )


def run_comparison(cases: Iterable[Case], names: Sequence[str], most: int, seed: int) -> dict[str, Any]:
    """Measure, print the table, and return the results for the line of JSON."""
    pairs: dict[PairKey, PairTotals] = {}
    with ExitStack() as stack:
        peers = [stack.enter_context(PeerProcess(name, ensure_environment(name))) for name in names]
        for peer in peers:
            print(f"{peer.name} {peer.version}" + (f"; could not run here: {peer.missing}" if peer.missing else ""))
        for case in sample_cases(cases, most, seed):
            for peer in peers:
                for share in PEER_SHARES.get(peer.name, OWN_SHARE):
                    compare_case(case, peer, share, pairs)
    print("\n".join(format_table(pairs)))
    return {
        "benchmark": "retention",
        "peers": {peer.name: {"version": peer.version, "missing": peer.missing} for peer in peers},
        "seed": seed,
        "results": [
            {"data": row, "peer": name, "share": round(share, 3), **compute_shares(pair)}
            for (row, name, share), pair in sorted(pairs.items())
        ],
    }
