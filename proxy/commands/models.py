"""The command line of checkpoints: `clara-proxy models list`, `verify` and `pull`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .checkpoints import CheckpointFinding

app = typer.Typer(
    help="CLaRa checkpoints: what there is, whether it is whole, and how to get it.", no_args_is_help=True
)
Source = Annotated[str, typer.Argument(help="A folder, or a hub repository such as apple/CLaRa-7B-Instruct.")]
Subfolder = Annotated[str | None, typer.Option(help="Compression rate, such as compression-16.", show_default=False)]
Base = Annotated[str | None, typer.Option(help="The base model: a folder or a repository.", show_default=False)]


@app.command("list")
def list_models() -> None:
    """List the published checkpoints, and which are here."""
    from . import checkpoints  # noqa: PLC0415

    for entry in checkpoints.list_checkpoints():
        where = entry.local or "not here"
        typer.echo(
            f"{entry.repo} {entry.subfolder}: {checkpoints.format_size(entry.size_bytes)}, {entry.licence}; {where}"
        )


@app.command()
def verify(source: Source, subfolder: Subfolder = None, base: Base = None) -> None:
    """Look whether a checkpoint and its base model are whole and fit together."""
    from . import checkpoints  # noqa: PLC0415

    raise typer.Exit(_print_findings(checkpoints.verify_checkpoint(source, subfolder, base)))


@app.command()
def pull(
    repo: Source,
    subfolder: Subfolder = None,
    base: Base = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show licence and size, then download and verify; goes on where an earlier try ended."""
    from ...compression.clara.exceptions import ClaraError  # noqa: PLC0415
    from . import checkpoints  # noqa: PLC0415

    def confirm(shown: str) -> bool:
        typer.echo(shown)
        return yes or typer.confirm("Download?")

    try:
        findings = checkpoints.pull_checkpoint(repo, subfolder, base, confirm)
    except (ClaraError, ImportError) as error:
        typer.echo(f"clara-proxy: {error}", err=True)
        raise typer.Exit(1) from None
    raise typer.Exit(1 if findings is None else _print_findings(findings))


def _print_findings(findings: "Sequence[CheckpointFinding]") -> int:
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.is_ok else 'FAIL'}  {finding.name}: {finding.result}")
    return 0 if all(finding.is_ok for finding in findings) else 1
