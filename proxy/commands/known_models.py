"""The published models that `clara-proxy models` lists: one entry for each checkpoint."""

from typing import NamedTuple

NON_COMMERCIAL = "non-commercial use only (NAVER's license: read it on the page of the repository)"
LICENCES = {  # by owner
    "apple": "apple-amlr: research only, no commercial use",
    "mistralai": "apache-2.0",
    "naver": NON_COMMERCIAL,
}


class KnownModel(NamedTuple):
    """A published checkpoint; `subfolder` is "" if it is at the top of its repository.

    `size_bytes` is its minimum size without the base model.
    """

    repo: str
    subfolder: str
    size_bytes: int
    purpose: str


def compute_latent_size(adapters: int, memory_tokens: int) -> int:
    """Return the bytes of adapters (41,943,040 numbers each) and two matrices of 4096 columns, in bfloat16."""
    rows = 32_000 + memory_tokens + 3
    return 2 * (adapters * 41_943_040 + 2 * rows * 4096)


_RECONSTRUCTION = "restates documents; a start for training"
_ANSWERS = "answers questions from documents; modes answer, summary and latent"
_RETRIEVAL = "finds the documents that answer, then answers from them"

KNOWN_MODELS: tuple[KnownModel, ...] = (
    KnownModel("apple/CLaRa-7B-Base", "compression-16", compute_latent_size(2, 16), _RECONSTRUCTION),
    KnownModel("apple/CLaRa-7B-Base", "compression-128", compute_latent_size(2, 2), _RECONSTRUCTION),
    KnownModel("apple/CLaRa-7B-Instruct", "compression-16", compute_latent_size(2, 16), _ANSWERS),
    KnownModel("apple/CLaRa-7B-Instruct", "compression-128", compute_latent_size(2, 2), _ANSWERS),
    KnownModel("apple/CLaRa-7B-E2E", "compression-16", compute_latent_size(3, 16), _RETRIEVAL),
    KnownModel("apple/CLaRa-7B-E2E", "compression-128", compute_latent_size(3, 2), _RETRIEVAL),
    KnownModel(
        "naver/pisco-mistral",
        "",
        compute_latent_size(2, 8),
        "PISCO: answers questions from passages of 128 tokens, 16x smaller; modes answer and latent",
    ),
)


def find_licence(repo: str) -> str:
    """Return the license of a known owner's models."""
    return LICENCES.get(repo.partition("/")[0], "unknown: see the page of the repository")
