"""What CLaRa's tests share: the golden folder when it is there, and a tiny random checkpoint made on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="CLaRa needs the extra [clara]")

import torch

from clara_proxy.compression.clara.clara import Clara
from clara_proxy.compression.clara.prompt_layout import Compat
from clara_proxy.tests.compression.clara.tiny import make_checkpoint

GOLDEN = Path(__file__).parents[4] / "shared" / "clara-format"
torch.set_num_threads(1)

Load = Callable[..., Clara]


@pytest.fixture(scope="session")
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip("the golden folder ../shared/clara-format is not here")
    return GOLDEN


@pytest.fixture(scope="session")
def load(golden: Path) -> Load:
    """Load a golden checkpoint by name, once for each way of loading it."""
    loaded: dict[tuple[str, str, Compat], Clara] = {}

    def get(name: str, compat: Compat | None = None, dtype: str = "float32") -> Clara:
        key = (name, dtype, compat or Compat())
        if key not in loaded:
            base = golden / "base" / "tiny-mistral"
            folder = golden / "checkpoints" / name
            loaded[key] = Clara.from_pretrained(folder, base=base, device="cpu", dtype=dtype, compat=compat)
        return loaded[key]

    return get


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random `base` and a random E2E checkpoint in `clara/compression-4`."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def clara(tiny: Path) -> Clara:
    """The random E2E checkpoint: documents of 32 tokens become 8 vectors of 32 numbers."""
    return Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu")
