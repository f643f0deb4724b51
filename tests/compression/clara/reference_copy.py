"""A small copy of the golden folder, so that a fresh clone compares prompts and token ids with the reference.

The weights of the golden checkpoints (1.3 MB for the smallest) are not in it: latents, logits and answers are compared
where ../shared is present. `python -m clara_proxy.tests.compression.clara.reference_copy` writes the copy.
"""

import gzip
import json
from pathlib import Path
from typing import Any

from clara_proxy.compression.clara.checkpoint_config import read_checkpoint_config
from clara_proxy.tests.compression.clara.conftest import GOLDEN
from clara_proxy.tests.compression.clara.golden_cases import Case, read_cases, unpadded

COPY = Path(__file__).with_name("reference.json.gz")
CASES = (
    "b02_paraphrase_batch2x3",
    "b04_compress_boundary256",
    "e05_questions_long_question_truncated",
    "f02_questions_batch2x6_top3",
    "i03_text_unicode_empty",
    "i05_text_colon_backslash",
    "i07_text_55docs_question_cut",
    "i09_special_text_in_document",
    "j01_text_3docs_rate128",
)


def read_copy() -> dict[str, Any]:
    """Return the copy."""
    content: dict[str, Any] = json.loads(gzip.decompress(COPY.read_bytes()))
    return content


def build_copy() -> dict[str, Any]:
    """Return what the copy should hold, from the golden folder."""
    files = {name: GOLDEN / f"{name}.json" for name in ("prompts", "real_mistral_token_facts")}
    files["tokenizer"] = GOLDEN / "base" / "tiny-mistral" / "tokenizer.json"
    cases = [_describe_case(case) for name in CASES for case in read_cases(GOLDEN / "golden" / f"{name}.json")]
    return {**{name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items()}, "cases": cases}


def _describe_case(case: Case) -> dict[str, Any]:
    config = read_checkpoint_config(GOLDEN / "checkpoints" / case.record["checkpoint"])
    ids = {
        name: unpadded(case.arrays[f"{prefix}_input_ids"], case.arrays[f"{prefix}_attention_mask"])
        for name, prefix in (("encoder_ids", "enc"), ("query_ids", "query"), ("decoder_ids", "dec"))
        if f"{prefix}_input_ids" in case.arrays
    }
    record = {name: case.record.get(name) for name in ("case", "questions", "template_indices", "prompts", "k")}
    sizes = {"memory_tokens": config.memory_tokens, "max_document_tokens": config.max_document_tokens}
    return {**record, **sizes, **ids, "groups": case.groups}


if __name__ == "__main__":
    data = json.dumps(build_copy(), separators=(",", ":")).encode()
    COPY.write_bytes(gzip.compress(data, 9, mtime=0))
