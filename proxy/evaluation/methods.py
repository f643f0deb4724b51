"""The ways to make a text smaller that an evaluation compares: every mode of this installation, and baselines.

A mode is an engine of `services.open_engines`, so a new mode needs no change here.
"""

import tempfile
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from ...compression.clara.async_engine import ClaraBackend
from ...compression.compressor import Task
from ...compression.engine import CompressionJob, Engine
from ...compression.tokens import TokenCounter
from ...config.settings import Settings
from ..runtime import local_model
from ..runtime.services import open_engines
from .baselines import BASELINES
from .cases import Case

FULL_TEXT = "full"
LATENT = "latent"
EXTRACT = "extract"
NO_RATIO = 0.0
_CLARA_METHODS = frozenset({"answer", "summary", LATENT})
_MODEL_SETTINGS = {"prune": "pruner"}  # the settings that name the models of other modes
_UNSIZED_MODES = frozenset({"summary"})  # their size does not follow the ratio
_DEADLINE_MARGIN = 3600.0  # seconds for a passage: an evaluation waits, and modes have a limit of their own

PROBE = ("The capital of France is Paris. It is on the Seine. Lyon is smaller.", "What is the capital of France?")
_CODE_PROBE = """import os


def read_capital(country):
    path = os.path.join("countries", country)
    with open(path) as file:
        return file.read()


class Country:
    def __init__(self, name):
        self.name = name
        self.capital = read_capital(name)
"""


class Method(NamedTuple):
    """A method at one ratio; `model` is the one that it uses, "" for none."""

    name: str
    ratio: float
    model: str = ""


class SmallerText(NamedTuple):
    """A compressed text, or the original with the reason; `compressor` wrote it. Sizes in tokens."""

    text: str
    tokens: int
    seconds: float
    compressor: str
    reason: str = ""


@dataclass(slots=True)
class Compressors:
    """The engines by mode, and CLaRa if there is one."""

    settings: Settings
    engines: dict[str, Engine]
    clara: ClaraBackend | None

    @property
    def names(self) -> list[str]:
        """Return the names of all methods: the full text, the modes, CLaRa's own answer, and the baselines."""
        latent = [] if self.clara is None else [LATENT]
        return [FULL_TEXT, *self.engines, *latent, *BASELINES]

    def list_methods(self, names: Sequence[str], ratios: Sequence[float]) -> list[Method]:
        """Return the methods at their sizes, in the order of measurement.

        CLaRa's own answers have the compression rates of the model, the full text and summaries one size.
        """
        methods: list[Method] = []
        for name in self.names:
            if name not in names:
                continue
            model = self._find_model(name)
            sizes = [NO_RATIO] if name == FULL_TEXT or name in _UNSIZED_MODES else ratios
            if name == LATENT and self.clara is not None:
                sizes = [float(rate) for rate in self.clara.rates]
            methods.extend(Method(name, ratio, model) for ratio in sizes)
        return methods

    async def load_models(self, methods: Sequence[Method], counter: TokenCounter) -> None:
        """Load the models of these methods: each reads a short passage.

        A pruner reads two, because it scores either prose or code.
        """
        names = {method.name for method in methods}
        if self.clara is not None and names & _CLARA_METHODS:
            await self.clara.answer([PROBE[0]], PROBE[1], 1, _DEADLINE_MARGIN)
        for name in names & self.engines.keys() & _MODEL_SETTINGS.keys():
            jobs = [CompressionJob(text, PROBE[1], 8, None, counter) for text in (PROBE[0], _CODE_PROBE)]
            await self.engines[name].compress(jobs, _DEADLINE_MARGIN)

    async def compress(self, method: Method, case: Case, target: int, counter: TokenCounter) -> SmallerText:
        """Return the text of a case in at most some `target` tokens; never fails."""
        text = case.text
        if method.name == FULL_TEXT:
            return SmallerText(text, counter.count(text), 0.0, FULL_TEXT)
        if method.name in BASELINES:
            started = perf_counter()
            output = BASELINES[method.name](Task(text, case.question, target, counter.count))
            return SmallerText(output, counter.count(output), perf_counter() - started, method.name)
        job = CompressionJob(text, case.question, target, None, counter)
        (outcome,) = await self.engines[method.name].compress([job], self.settings.clara_timeout + _DEADLINE_MARGIN)
        if outcome.text is None:
            return SmallerText(text, outcome.tokens, outcome.seconds, outcome.compressor, outcome.reason or "unchanged")
        return SmallerText(outcome.text, outcome.tokens, outcome.seconds, outcome.compressor)

    def _find_model(self, name: str) -> str:
        if name not in _CLARA_METHODS:
            return str(getattr(self.settings, _MODEL_SETTINGS.get(name, ""), None) or "")
        subfolder = self.settings.subfolder
        return (local_model.resolve_local_model(self.settings) or "") + (f"/{subfolder}" if subfolder else "")


@asynccontextmanager
async def open_compressors(settings: Settings) -> AsyncGenerator[Compressors]:
    """Open every mode of these settings. Latents are kept in a temporary folder, unless `CLARA_CACHE` names one."""
    with tempfile.TemporaryDirectory(prefix="clara-eval-") as folder:
        async with AsyncExitStack() as stack:
            clara, engines, *_ = open_engines(settings, Path(folder), stack)
            yield Compressors(settings, engines, clara)
