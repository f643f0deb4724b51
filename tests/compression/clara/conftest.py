"""Fixtures for CLaRa's tests: the golden folder if it is present, and a tiny random checkpoint."""

import re
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
REFERENCE_COMPAT = Compat(long_text="cut", special_text="parse")
_SPECIAL_TOKEN = re.compile(r"<(?:MEM\d*|SEP|ENC|AE|KBTC|/?s|unk)>")


def find_special_tokens(text: str) -> list[str]:
    """Return the special tokens that a text spells."""
    return _SPECIAL_TOKEN.findall(text)


@pytest.fixture(scope="session")
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip("no golden folder ../shared/clara-format")
    return GOLDEN


@pytest.fixture(scope="session")
def load(golden: Path) -> Load:
    """Return a loader of golden checkpoints by name that loads each once per set of options."""
    loaded: dict[tuple[str, str, str, Compat], Clara] = {}

    def get(name: str, compat: Compat | None = None, dtype: str = "float32", device: str = "cpu") -> Clara:
        key = (name, dtype, device, compat or Compat())
        if key not in loaded:
            base = golden / "base" / "tiny-mistral"
            folder = golden / "checkpoints" / name
            loaded[key] = Clara.from_pretrained(folder, base=base, device=device, dtype=dtype, compat=compat)
        return loaded[key]

    return get


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a random `base` and a random E2E checkpoint in `clara/compression-4`."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def clara(tiny: Path) -> Clara:
    """Return the random E2E checkpoint: a document of 32 tokens becomes 8 vectors of 32 numbers."""
    return Clara.from_pretrained(tiny / "clara", base=tiny / "base", device="cpu")
