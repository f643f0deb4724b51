"""The command line: `clara-proxy serve`, `demo`, `wrap -- CMD`, `doctor`, `report`, and what else there is.

Every command reads the same settings; options given here come before all others. What a command does is in a file of
its own, imported when it is asked for, so that `--help` is quick. They stand in the order in which somebody new needs
them.
"""

import asyncio
import socket
import sys
from errno import EADDRNOTAVAIL
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ...config import client_environment, log_setup
from . import digest, keys, ledger, mcp, models, options, originals, replay, report, show, train
from .options import Config, DataDir, exit_with_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default=False)]
Upstream = Annotated[str | None, typer.Option(help="Base URL of the upstream.", show_default=False)]
Mode = Annotated[
    str | None,
    typer.Option(
        help="off, observe, auto or extract; with a CLaRa model also answer, summary or latent.", show_default=False
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"clara-proxy {version('clara-proxy')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Say which version this is.", callback=_print_version, is_eager=True)
]


@app.callback()
def handle_global_options(version: Version = False) -> None:
    """An OpenAI-compatible proxy that sends fewer tokens and says honestly what that saved."""


@app.command()
def serve(
    config: Config = None,
    host: Host = None,
    port: Port = None,
    upstream: Upstream = None,
    data_dir: DataDir = None,
    mode: Mode = None,
) -> None:
    """Run the proxy."""
    chosen = options.load_settings(
        config, host=host, port=port, upstream_base_url=upstream, data_dir=data_dir, mode=mode
    )
    from ..stores.api_keys import KeyStoreError  # noqa: PLC0415
    from .serve import UnprotectedAddressError  # noqa: PLC0415
    from .serve import serve as run  # noqa: PLC0415

    try:
        run(chosen)
    except UnprotectedAddressError:
        exit_with_error(
            f"others can reach {chosen.host}, and there are no keys: make one with `clara-proxy keys create NAME`, "
            "listen on 127.0.0.1, or set CLARA_OPEN=true to let everybody in",
            1,
        )
    except KeyStoreError as error:
        exit_with_error(str(error), 1)
    except OSError as error:
        another = "--host" if isinstance(error, socket.gaierror) or error.errno == EADDRNOTAVAIL else "--port"
        exit_with_error(
            f"cannot listen on {chosen.host}:{chosen.port}: {error.strerror}; choose another with {another}", 1
        )


@app.command()
def demo(turns: Annotated[int, typer.Option(help="At most so many turns of each conversation.")] = 0) -> None:
    """Replay real agent conversations through a running proxy and show what it saves."""
    log_setup.configure_logging("warning")
    from .demo.run import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(turns))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def wrap(context: typer.Context, config: Config = None, upstream: Upstream = None, data_dir: DataDir = None) -> None:
    """Run a command with its traffic going through the proxy: `clara-proxy wrap -- CMD ARGS`."""
    chosen = options.load_settings(
        config, defaults=client_environment.read_client_upstreams(), upstream_base_url=upstream, data_dir=data_dir
    )
    if not context.args:
        exit_with_error("nothing to run; write the command after --", 2)
    from .wrap import run_wrapped  # noqa: PLC0415

    raise typer.Exit(run_wrapped(context.args, chosen))


@app.command()
def doctor(config: Config = None, upstream: Upstream = None, data_dir: DataDir = None) -> None:
    """Check that everything the proxy needs is there, and say what to do where it is not."""
    chosen = options.load_settings(config, upstream_base_url=upstream, data_dir=data_dir)
    from .doctor import run_checks  # noqa: PLC0415

    done = asyncio.run(run_checks(chosen))
    for check in done:
        typer.echo(f"{'FAIL' if check.remedy else 'ok  '}  {check.name}: {check.result}")
        if check.remedy:
            typer.echo(f"      -> {check.remedy}")
    raise typer.Exit(1 if any(check.remedy for check in done) else 0)


app.command()(report.report)
app.command()(show.show)


@app.command()
def compress(
    file: Annotated[Path, typer.Argument(help="Text to shorten; - reads standard input.", allow_dash=True)],
    query: Annotated[str, typer.Option(help="What the text is wanted for.")] = "",
    ratio: Annotated[float | None, typer.Option(help="How many times smaller.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="Whose vocabulary counts the tokens.")] = "gpt-4o",
    config: Config = None,
) -> None:
    """Shorten one file and print the result; the figures go to standard error."""
    chosen = options.load_settings(config, ratio=ratio)
    from ..runtime.in_process import compress_passage  # noqa: PLC0415

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        exit_with_error(f"{file}: {error}", 2)
    outcome, before = compress_passage(text, query, chosen.ratio, model)
    typer.echo(text if outcome.text is None else outcome.text)
    note = f", left as it is: {outcome.reason}" if outcome.reason else ""
    typer.echo(f"{outcome.compressor}: {before} -> {outcome.tokens} tokens{note}", err=True)


app.command()(digest.digest)
app.command()(replay.replay)
app.command()(train.train)
app.command()(mcp.mcp)
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(originals.app, name="originals")
app.add_typer(models.app, name="models")


def main() -> None:
    """Run the command line; what stops a start is told in one line, with status 2."""
    from ..stores.errors import StartupError  # noqa: PLC0415

    try:
        app()
    except StartupError as error:
        typer.echo(f"clara-proxy: {error}", err=True)
        sys.exit(2)
