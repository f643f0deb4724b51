"""Makes libraries use the vocabularies and the price table in litellm's wheel instead of downloading them."""

import os
from importlib.util import find_spec
from pathlib import Path

# `o200k_base` and `o200k_harmony` share a file; the wheel has no other vocabularies.
BUNDLED_VOCABULARIES = frozenset({"cl100k_base", "o200k_base", "o200k_harmony"})


def use_bundled_files() -> None:
    """Point tiktoken and litellm at the bundled files, unless the environment already names others."""
    for name in ("MODEL_COST_MAP", "ANTHROPIC_BETA_HEADERS"):
        os.environ.setdefault(f"LITELLM_LOCAL_{name}", "true")
    spec = find_spec("litellm")  # does not import it
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
