"""The commands `clara-proxy models list`, `verify` and `pull`: CLaRa and PISCO checkpoints."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from . import options

if TYPE_CHECKING:
    from .checkpoints import CheckpointFinding, HuggingFace

app = typer.Typer(help="CLaRa and PISCO checkpoints: list, verify, download.", no_args_is_help=True)
Source = Annotated[str, typer.Argument(help="A folder, or a Hugging Face repository such as apple/CLaRa-7B-Instruct.")]
Repo = Annotated[str, typer.Argument(help="Hugging Face repository, such as apple/CLaRa-7B-Instruct.")]
Subfolder = Annotated[
    str | None,
    typer.Option(
        help="Compression rate: compression-16 or compression-128. Default: compression-16; PISCO has none.",
        show_default=False,
    ),
]
Base = Annotated[
    str | None,
    typer.Option(help="Folder or repository of the base model. Default: the checkpoint's own.", show_default=False),
]


@app.command("list")
def list_models(as_json: options.AsJson = False) -> None:
    """List the published checkpoints with size, license, purpose and local folder."""
    from . import checkpoints  # noqa: PLC0415

    entries = list(checkpoints.list_checkpoints(_open_hub()))
    if as_json:
        options.print_json([entry._asdict() | {"local": entry.local and str(entry.local)} for entry in entries])
        return
    for entry in entries:
        size = checkpoints.format_size(entry.size_bytes)
        name = f"{entry.repo} {entry.subfolder}".rstrip()
        typer.echo(f"{name}: {size}, {entry.licence}; {entry.purpose}; {entry.local or 'not downloaded'}")


@app.command()
def verify(source: Source, subfolder: Subfolder = None, base: Base = None) -> None:
    """Verify that a checkpoint and its base model are complete and fit together. Uses no network."""
    from . import checkpoints  # noqa: PLC0415

    raise typer.Exit(_print_findings(checkpoints.verify_checkpoint(source, subfolder, base, _open_hub())))


@app.command()
def pull(
    repo: Repo,
    subfolder: Subfolder = None,
    base: Base = None,
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking.")] = False,
) -> None:
    """Download and verify a checkpoint, after confirmation of license and size. Resumes an interrupted download."""
    from ...compression.clara.exceptions import ClaraError  # noqa: PLC0415
    from . import checkpoints  # noqa: PLC0415

    def confirm(summary: str) -> bool:
        typer.echo(summary)
        return yes or typer.confirm("Download?")

    try:
        findings = checkpoints.pull_checkpoint(repo, subfolder, base, confirm, _open_hub())
    except (ClaraError, ImportError) as error:
        options.exit_with_error(str(error), 1)
    raise typer.Exit(1 if findings is None else _print_findings(findings))


def _open_hub() -> "HuggingFace":
    """Return the hub with the folder of CLARA_CACHE, if it is set, as its cache."""
    from . import checkpoints  # noqa: PLC0415

    cache = options.load_settings(None).cache
    return checkpoints.HuggingFace(cache.expanduser() if cache else None)


def _print_findings(findings: "Sequence[CheckpointFinding]") -> int:
    for finding in findings:
        options.print_finding(finding.name, finding.result, is_ok=finding.is_ok)
    return 0 if all(finding.is_ok for finding in findings) else 1
