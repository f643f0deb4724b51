"""Tiny pruners of every kind, made once, each with its worker."""

from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="pruners need the extra [pruners]")

from clara_proxy.benchmarks import tiny_pruners
from clara_proxy.compression import registry
from clara_proxy.compression.pruners.compressor import PruneCompressor, PruneOptions
from clara_proxy.compression.pruners.families import read_spec
from clara_proxy.compression.pruners.pruner import Pruner, PrunerPlacement, load_pruner
from clara_proxy.compression.pruners.worker import PrunerWorker
from clara_proxy.tests.compression.pruners import references

WRITERS: dict[str, Callable[[Path], Path]] = {
    "bert": partial(tiny_pruners.write_llmlingua2, kind="bert"),
    "xlm": partial(tiny_pruners.write_llmlingua2, kind="xlm"),
    "token-classifier": tiny_pruners.write_token_classifier,
    "provence": partial(tiny_pruners.write_provence, build=references.ProvenceReference),
    "open-provence": partial(tiny_pruners.write_open_provence, build=references.OpenProvenceReference),
    "swe-pruner": partial(tiny_pruners.write_swe_pruner, build=references.SwePrunerReference),
}
PROSE_KINDS = [kind for kind in WRITERS if kind != "swe-pruner"]


class TinyPruner:
    """A tiny pruner with its worker; `compressor` uses the worker."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.spec = folder, read_spec(folder)
        self.pruner: Pruner = load_pruner(folder, PrunerPlacement("cpu", threads=1))
        self.worker = PrunerWorker(lambda: self.pruner)

    def compressor(self, threshold: float | None = None) -> PruneCompressor:
        return PruneCompressor(self.worker, registry.find_compressor, PruneOptions(self.spec.family, threshold))


@pytest.fixture(scope="session")
def tiny_pruners_by_kind(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, TinyPruner]]:
    pruners = {kind: TinyPruner(write(tmp_path_factory.mktemp(kind))) for kind, write in WRITERS.items()}
    yield pruners
    for pruner in pruners.values():
        pruner.worker.close()
