"""The commands `clara-proxy models list`, `verify`, `pull` and `export`: CLaRa and PISCO checkpoints, and pruners."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import options

if TYPE_CHECKING:
    from .checkpoints import CheckpointFinding, HuggingFace

app = typer.Typer(help="CLaRa, PISCO and pruner checkpoints: list, verify, download, export.", no_args_is_help=True)
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
    """List the published checkpoints and pruners with size, license, purpose and local folder."""
    from . import checkpoints, pruner_checkpoints  # noqa: PLC0415

    cache = _read_cache_folder()
    entries = [*checkpoints.list_checkpoints(checkpoints.HuggingFace(cache)), *pruner_checkpoints.list_pruners(cache)]
    if as_json:
        options.print_json([entry._asdict() | {"local": entry.local and str(entry.local)} for entry in entries])
        return
    for entry in entries:
        size = checkpoints.format_size(entry.size_bytes)
        name = f"{entry.repo} {entry.subfolder}".strip()
        typer.echo(f"{name}: {size}, {entry.licence}; {entry.purpose}; {entry.local or 'not downloaded'}")


@app.command()
def verify(source: Source, subfolder: Subfolder = None, base: Base = None) -> None:
    """Verify that a checkpoint and its base model, or a pruner, are complete and fit together. Uses no network."""
    from . import checkpoints, pruner_checkpoints  # noqa: PLC0415

    cache = _read_cache_folder()
    if pruner_checkpoints.is_pruner(source, cache):
        raise typer.Exit(_print_findings(pruner_checkpoints.verify_pruner(source, cache)))
    raise typer.Exit(_print_findings(checkpoints.verify_checkpoint(source, subfolder, base, _open_hub())))


@app.command()
def pull(
    repo: Repo,
    subfolder: Subfolder = None,
    base: Base = None,
    yes: Annotated[bool, typer.Option("--yes", help="Download without asking.")] = False,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Accept a non-commercial license, which is required."),
    ] = False,
    pruner: Annotated[bool, typer.Option("--pruner", help="The repository is a pruner that is not listed.")] = False,
) -> None:
    """Download and verify a checkpoint or a pruner, after confirmation of license and size. Resumes a download."""
    from ...compression.models.errors import ModelError  # noqa: PLC0415
    from . import checkpoints, pruner_checkpoints  # noqa: PLC0415

    def confirm(summary: str) -> bool:
        typer.echo(summary)
        return yes or typer.confirm("Download?")

    try:
        if pruner or pruner_checkpoints.is_pruner(repo):
            if not accept_licence and (refusal := pruner_checkpoints.describe_refused_licence(repo)):
                options.exit_with_error(refusal, 1)
            findings = pruner_checkpoints.pull_pruner(repo, confirm, _open_hub(), _read_cache_folder())
        else:
            findings = checkpoints.pull_checkpoint(repo, subfolder, base, confirm, _open_hub())
    except (ModelError, ImportError) as error:
        options.exit_with_error(str(error), 1)
    raise typer.Exit(1 if findings is None else _print_findings(findings))


@app.command()
def export(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not exist, or be empty.")],
    to: Annotated[Literal["vllm", "mlx"], typer.Option("--to", help="Engine that will load the model.")] = "vllm",
    model: Annotated[
        str | None,
        typer.Option(help="Folder or repository. Default: CLARA_MODEL, else clara-nano.", show_default=False),
    ] = None,
    subfolder: Subfolder = None,
    base: Base = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="vLLM: merge the decoder adapter into the base; needs no LoRA there.")
    ] = False,
) -> None:
    """Write a checkpoint for another engine: for vLLM a base, adapters and a start script; for mlx-lm one model."""
    from ...compression.clara.locate import NANO_NAME  # noqa: PLC0415
    from ...compression.models.errors import ModelError  # noqa: PLC0415

    settings = options.load_settings(None)
    cache = settings.cache.expanduser() if settings.cache else None
    try:
        from ...compression.clara.export import export_checkpoint  # noqa: PLC0415 - loads torch
        from ...compression.clara.model_source import ModelSource  # noqa: PLC0415

        source = ModelSource(
            model or settings.model or NANO_NAME,
            subfolder or settings.subfolder,
            base or settings.base,
            cache=cache,
        )
        parts = export_checkpoint(source, to, out, merge=merge)
    except (ModelError, ImportError, OSError) as error:
        options.exit_with_error(str(error), 1)
    typer.echo(f"{out}: {', '.join(parts)}")
    if to == "vllm":
        typer.echo(f"start vLLM:      sh {out / 'start.sh'}")
        typer.echo("start the proxy: CLARA_BACKEND=vllm CLARA_VLLM_URL=http://127.0.0.1:8000 clara-proxy serve")


def _open_hub() -> "HuggingFace":
    """Return the hub with the folder of CLARA_CACHE, if it is set, as its cache."""
    from . import checkpoints  # noqa: PLC0415

    return checkpoints.HuggingFace(_read_cache_folder())


def _read_cache_folder() -> Path | None:
    cache = options.load_settings(None).cache
    return cache.expanduser() if cache else None


def _print_findings(findings: "Sequence[CheckpointFinding]") -> int:
    for finding in findings:
        options.print_finding(finding.name, finding.result, is_ok=finding.is_ok)
    return 0 if all(finding.is_ok for finding in findings) else 1
