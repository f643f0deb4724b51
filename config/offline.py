"""Keeps libraries from fetching at run time what litellm's wheel brings along: vocabularies and the price table."""

import os
from importlib.util import find_spec
from pathlib import Path

# The two harmony and base vocabularies share a file; the wheel has no others.
BUNDLED_VOCABULARIES = frozenset({"cl100k_base", "o200k_base", "o200k_harmony"})


def use_bundled_files() -> None:
    """Point tiktoken and litellm at the bundled files, unless the user has pointed them somewhere already."""
    for name in ("MODEL_COST_MAP", "ANTHROPIC_BETA_HEADERS"):
        os.environ.setdefault(f"LITELLM_LOCAL_{name}", "true")
    spec = find_spec("litellm")  # finds, and does not import
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "litellm_core_utils" / "tokenizers"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
