"""What survives with us and with peers: the same passages in one run, each at a peer's own size and ours at the same.

A peer lives in a virtual environment of its own outside the repository, made with pip when it is first asked for, and
is driven by `peer_shorten.py` over its standard input and output. A peer without a knob for the size runs once, at its
own size; litellm, which has one, at 2x, 4x and 10x. Then our compressor is asked for just the tokens that the peer
forwarded, which is the text itself where the peer left it alone. Both count tokens within their time. No key, no
telemetry, no download: what needs one is said, and left out.
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
OWN_SHARE: Sequence[float] = (0.0,)  # a peer's own size
VOCABULARY_GLOB = "lib/python3*/site-packages/litellm/litellm_core_utils/tokenizers"
PEER_ENVIRONMENT = {
    "HEADROOM_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "OMP_NUM_THREADS": "1",
}


def ensure_environment(name: str) -> Path:
    """Return the folder of a peer's environment; made now unless it is there."""
    home = PEERS_FOLDER / name
    made = home / "made"
    if not made.exists():
        print(f"installing {PACKAGES[name]} into {home}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", PACKAGES[name]], check=True)
        made.touch()
    return home


class PeerProcess:
    """A peer that answers, one passage after the other."""

    def __init__(self, name: str, home: Path) -> None:
        self.name = name
        vocabularies = next(home.glob(VOCABULARY_GLOB), None)  # headroom and litellm would fetch them anew
        known = {"TIKTOKEN_CACHE_DIR": str(vocabularies)} if vocabularies else {}
        argv = [str(home / "bin" / "python"), str(SCRIPT), name]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**PEER_ENVIRONMENT, **known, "HOME": str(home), "PATH": str(home / "bin")},
        )

    def __enter__(self) -> "PeerProcess":
        """Wait for the greeting."""
        greeting = self._read_reply()
        self.version, self.missing = str(greeting["version"]), str(greeting["missing"])
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def shorten_case(self, case: Case, share: float) -> dict[str, Any]:
        """Return what the peer forwards of a passage (`text`), its `seconds`, and perhaps an `error`."""
        assert self._process.stdin is not None
        asked = {"text": case.text, "question": case.question, "share": share}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._read_reply()

    def _read_reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            message = f"{self.name} ended without an answer"
            raise RuntimeError(message)
        said: dict[str, Any] = json.loads(line)
        return said


@dataclass(slots=True)
class SideTotals:
    """What one of two makes of the passages of a row."""

    survived_literals: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class PairTotals:
    """A peer and us on the same passages: what was wanted of them, how many the peer touched, how many it failed at."""

    wanted_literals: int = 0
    tokens_before: int = 0
    passages: int = 0
    touched: int = 0
    failed: int = 0
    peer: SideTotals = field(default_factory=SideTotals)
    ours: SideTotals = field(default_factory=SideTotals)


PairKey = tuple[str, str, float]


def sample_cases(found: Iterable[Case], most: int, seed: int) -> list[Case]:
    """Choose at most so many passages of each data file and kind, the same for the same seed."""
    kinds: dict[str, list[Case]] = defaultdict(list)
    for case in found:
        kinds[f"{case.data}:{case.kind}"].append(case)
    chosen = [Random(f"{seed} {name}").sample(of, min(most, len(of))) for name, of in sorted(kinds.items())]
    return [case for of in chosen for case in of]


def shorten_with_ours(case: Case, target: int, before: int) -> tuple[str, float]:
    """Shorten a passage to so many tokens with our compressor; the text itself where that is all of them."""
    if target >= before:
        return case.text, 0.0
    counted = TokenCounter(
        get_token_counter("gpt-4").name, is_exact=True
    )  # remembers no count: peers count within their time, too
    began = perf_counter()
    counted.count(case.text)
    condensed = registry.find_compressor(case.text).compress(
        Task(case.text, case.question, max(1, target), counted.count)
    )
    text = case.text if condensed is None else render(condensed, None)
    counted.count(text)
    return text, perf_counter() - began


def compare_case(case: Case, peer: PeerProcess, share: float, pairs: dict[PairKey, PairTotals]) -> None:
    """Let a peer shorten a passage, do it ourselves to the same size, and add both up."""
    count = get_token_counter("gpt-4").count
    said = peer.shorten_case(case, share)
    before, after = count(case.text), count(said["text"])
    text, seconds = shorten_with_ours(case, after, before)
    sides = ((said["text"], after, float(said["seconds"])), (text, count(text), seconds))
    for what, literals in case.answers.items():
        for row in case.list_row_names(what) if literals else ():
            pair = pairs.setdefault((row, peer.name, share), PairTotals())
            pair.wanted_literals += count_survivors(literals, what, "")[1]
            pair.tokens_before += before
            pair.passages += 1
            pair.touched += said["text"] != case.text
            pair.failed += "error" in said
            for side, (output, tokens, spent) in zip((pair.peer, pair.ours), sides, strict=True):
                side.survived_literals += count_survivors(literals, what, output)[0]
                side.tokens += tokens
                side.seconds += spent


def compute_shares(pair: PairTotals) -> dict[str, float | int]:
    """Return a pair in shares, and in milliseconds for ten thousand tokens."""
    shown: dict[str, float | int] = {"passages": pair.passages, "literals": pair.wanted_literals, "failed": pair.failed}
    shown["touched"] = round(pair.touched / max(1, pair.passages), 3)
    for name, side in (("peer", pair.peer), ("ours", pair.ours)):
        shown[f"{name}_survived"] = round(side.survived_literals / max(1, pair.wanted_literals), 4)
        shown[f"{name}_kept"] = round(side.tokens / max(1, pair.tokens_before), 4)
        shown[f"{name}_ms"] = round(side.seconds * 1e7 / max(1, pair.tokens_before), 2)
    return shown


def format_table(pairs: dict[PairKey, PairTotals]) -> Iterator[str]:
    """Lay the pairs out, one line a row, peer and size."""
    heads = f"{'peer alive':>11}{'kept':>6}{'ms/10k':>8}{'ours alive':>12}{'kept':>6}{'ms/10k':>8}"
    yield f"{'data':<34}{'peer':<10}{'size':>6}{'touched':>9}{heads}"
    for (row, name, share), pair in sorted(pairs.items()):
        one = compute_shares(pair)
        size = f"{1 / share:g}x" if share else "own"
        yield (
            f"{row:<34}{name:<10}{size:>6}{one['touched']:>9.2f}{one['peer_survived']:>11.3f}{one['peer_kept']:>6.2f}"
            f"{one['peer_ms']:>8.1f}{one['ours_survived']:>12.3f}{one['ours_kept']:>6.2f}{one['ours_ms']:>8.1f}"
        )


def run_comparison(found: Iterable[Case], names: Sequence[str], most: int, seed: int) -> dict[str, Any]:
    """Measure and print; returns what the line of JSON says."""
    pairs: dict[PairKey, PairTotals] = {}
    with ExitStack() as stack:
        peers = [stack.enter_context(PeerProcess(name, ensure_environment(name))) for name in names]
        for peer in peers:
            print(f"{peer.name} {peer.version}" + (f"; could not run here: {peer.missing}" if peer.missing else ""))
        for case in sample_cases(found, most, seed):
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
