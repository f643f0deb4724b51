"""Lists, verifies and downloads pruners for `clara-proxy models`; prints nothing itself.

Verification loads the pruner on the CPU and scores a sentence, without the network.
"""

from collections.abc import Callable
from pathlib import Path

from ...compression.models.errors import CheckpointError, ModelError
from ...compression.pruners import catalogue
from ...compression.pruners.catalogue import PUBLISHED_PRUNERS
from ...compression.pruners.families import GRANULARITIES, read_spec
from ...compression.pruners.jobs import PruneJob
from .checkpoints import CheckpointEntry, CheckpointFinding, Hub, format_size

_SAMPLE = "The mill was mended. The river rose."


def list_pruners(cache: Path | None = None) -> list[CheckpointEntry]:
    """Return the published pruners with their units and purposes; uses no network."""
    return [
        CheckpointEntry(
            pruner.repo,
            "",
            pruner.estimate_bytes(),
            pruner.licence,
            catalogue.find_local_folder(pruner.repo, cache),
            f"pruner of {GRANULARITIES[pruner.family]}: {pruner.purpose}",
        )
        for pruner in PUBLISHED_PRUNERS.values()
    ]


def is_pruner(source: str, cache: Path | None = None) -> bool:
    """Return True if `source` is a published pruner, or a folder or downloaded repository with a pruner."""
    if source in PUBLISHED_PRUNERS:
        return True
    folder = catalogue.find_local_folder(source, cache)
    try:
        if folder is not None:
            read_spec(folder)
    except CheckpointError:
        return False
    return folder is not None


def verify_pruner(source: str, cache: Path | None = None) -> list[CheckpointFinding]:
    """Verify that a pruner is complete and computes; the last finding may have a problem."""
    findings: list[CheckpointFinding] = []
    try:
        folder = catalogue.require_folder(source, cache)
        spec = read_spec(folder)
        units = f"keeps {spec.granularity}, threshold {spec.threshold:g}, windows of {spec.max_tokens} tokens"
        findings.append(CheckpointFinding("pruner", f"{folder}: {spec.family}, {units}"))
        findings.append(_check_scores(folder))
    except ModelError as error:
        findings.append(CheckpointFinding("pruner", str(error), is_ok=False))
    except ModuleNotFoundError as error:
        findings.append(CheckpointFinding("pruner", f"the extra [pruners] is not installed: {error}", is_ok=False))
    return findings


def _check_scores(folder: Path) -> CheckpointFinding:
    from ...compression.pruners.pruner import PrunerPlacement, load_pruner  # noqa: PLC0415 - loads torch

    pruner = load_pruner(folder, PrunerPlacement("cpu"))
    scored = pruner.score(PruneJob(_SAMPLE, "Who mended it?", [(0, 20), (21, len(_SAMPLE))]))
    if not all(0 <= score <= 1 for score in scored.scores):
        raise CheckpointError(f"{folder}: the scores of a sample are no probabilities")
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return CheckpointFinding("weights", f"{format_size(size)} in all; they fit, and score a sample")


def describe_refused_licence(repo: str) -> str:
    """Return why a pruner may not be downloaded without consent to its license, or ""."""
    licence = catalogue.find_licence(repo)
    if licence != catalogue.NON_COMMERCIAL:
        return ""
    return f"{repo} has the license {licence}; add --accept-licence to accept it"


def pull_pruner(
    repo: str, confirm: Callable[[str], bool], hub: Hub, cache: Path | None = None
) -> list[CheckpointFinding] | None:
    """Download a pruner and verify it; None if `confirm` rejects license and size.

    Raises:
        CheckpointError: a file cannot be downloaded, or the repository has no weights.
    """
    sizes = hub.read_sizes(repo, ["*"])
    try:
        patterns = catalogue.choose_patterns(list(sizes))
    except CheckpointError as error:
        raise CheckpointError(f"{repo}: {error}") from None
    size = format_size(sum(hub.read_sizes(repo, patterns).values()))
    if not confirm(f"{repo}: {size}; license {catalogue.find_licence(repo)}"):
        return None
    hub.download(repo, patterns)
    return verify_pruner(repo, cache)
