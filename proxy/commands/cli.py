"""The command line: `clara-proxy serve`, `demo`, `compress`, `report`, `doctor`, `wrap -- CMD`.

Every command reads the same settings; options given here come before all others. What a command does is in a file of
its own, imported when it is asked for, so that `--help` is quick.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...config import logs
from . import digest, keys, ledger, mcp, models, options, originals, replay, train
from .options import Config, stop

app = typer.Typer(
    help="An OpenAI-compatible proxy that sends fewer tokens and says honestly what that saved.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models.app, name="models")
app.add_typer(originals.app, name="originals")
app.add_typer(ledger.app, name="ledger")
app.add_typer(keys.app, name="keys")
app.command()(digest.digest)
app.command()(mcp.mcp)
app.command()(replay.replay)
app.command()(train.train)
Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default=False)]
Port = Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.", show_default=False)]
Upstream = Annotated[str | None, typer.Option(help="Base URL of the upstream.", show_default=False)]
DataDir = Annotated[Path | None, typer.Option(help="Where ledger and originals are kept.", show_default=False)]
Mode = Annotated[str | None, typer.Option(help="off, observe, auto or extract.", show_default=False)]


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
    chosen = options.chosen(config, host=host, port=port, upstream_base_url=upstream, data_dir=data_dir, mode=mode)
    from ..stores.keys import KeysError  # noqa: PLC0415
    from .serve import OpenToAllError  # noqa: PLC0415
    from .serve import serve as run  # noqa: PLC0415

    try:
        run(chosen)
    except OpenToAllError:
        stop(
            f"others can reach {chosen.host}, and there are no keys: make one with `clara-proxy keys create NAME`, "
            "listen on 127.0.0.1, or set CLARA_OPEN=true to let everybody in",
            1,
        )
    except KeysError as error:
        stop(str(error), 1)
    except OSError as error:
        stop(f"cannot listen on {chosen.host}:{chosen.port}: {error.strerror}; choose another with --port", 1)


@app.command()
def compress(
    file: Annotated[Path, typer.Argument(help="Text to shorten; - reads standard input.", allow_dash=True)],
    query: Annotated[str, typer.Option(help="What the text is wanted for.")] = "",
    ratio: Annotated[float | None, typer.Option(help="How many times smaller.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="Whose vocabulary counts the tokens.")] = "gpt-4o",
    config: Config = None,
) -> None:
    """Shorten one file and print the result; the figures go to standard error."""
    chosen = options.chosen(config, ratio=ratio)
    from ..oneshot import shortened  # noqa: PLC0415

    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        stop(f"{file}: {error}", 2)
    outcome, before = shortened(text, query, chosen.ratio, model)
    typer.echo(text if outcome.text is None else outcome.text)
    note = f", left as it is: {outcome.reason}" if outcome.reason else ""
    typer.echo(f"{outcome.compressor}: {before} -> {outcome.tokens} tokens{note}", err=True)


@app.command()
def report(
    since: Annotated[str, typer.Option(help="7d, 24h, 30m or a date.")] = "30d",
    by: Annotated[str, typer.Option(help="model, day, mode, tool, project, user, session, tag or tag:NAME.")] = "model",
    format: Annotated[str, typer.Option("--format", help="table, json, csv, md or html.")] = "table",  # noqa: A002
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Show what was received, sent, saved and billed."""
    chosen = options.chosen(config, data_dir=data_dir)
    from .savings import told  # noqa: PLC0415

    try:
        typer.echo(asyncio.run(told(chosen.data_dir.expanduser(), since, by, format, chosen.ledger_url)), nl=False)
    except ValueError as error:
        stop(str(error), 2)


@app.command()
def doctor(config: Config = None, upstream: Upstream = None, data_dir: DataDir = None) -> None:
    """Check that everything the proxy needs is there, and say what to do where it is not."""
    chosen = options.chosen(config, upstream_base_url=upstream, data_dir=data_dir)
    from .doctor import checks  # noqa: PLC0415

    done = asyncio.run(checks(chosen))
    for check in done:
        typer.echo(f"{'FAIL' if check.remedy else 'ok  '}  {check.name}: {check.found}")
        if check.remedy:
            typer.echo(f"      -> {check.remedy}")
    raise typer.Exit(1 if any(check.remedy for check in done) else 0)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def wrap(context: typer.Context, config: Config = None, upstream: Upstream = None, data_dir: DataDir = None) -> None:
    """Run a command with its traffic going through the proxy: `clara-proxy wrap -- CMD ARGS`."""
    chosen = options.chosen(config, upstream_base_url=upstream, data_dir=data_dir)
    if not context.args:
        stop("nothing to run; write the command after --", 2)
    from .wrap import wrapped  # noqa: PLC0415

    raise typer.Exit(wrapped(context.args, chosen))


@app.command()
def demo(turns: Annotated[int, typer.Option(help="At most so many turns of each conversation.")] = 0) -> None:
    """Replay real agent conversations through a running proxy and show what it saves."""
    logs.configure("warning")
    from .demo.replay import run  # noqa: PLC0415

    raise typer.Exit(run(turns))


def main() -> None:
    """Run the command line."""
    app()
