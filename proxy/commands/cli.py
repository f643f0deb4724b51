"""The command line `clara-proxy`.

Every command reads the same settings; its options take precedence. The commands are imported when they run, so that
`--help` is fast, and listed in the order in which a new user needs them.
"""

import asyncio
import gc
import socket
import sys
import zipfile
from collections.abc import Sequence
from errno import EADDRNOTAVAIL
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from ...config import log_setup
from ...config.settings import Settings, build_child_environment
from . import (
    ask,
    digest,
    help_format,
    ingest,
    keys,
    ledger,
    mcp,
    models,
    options,
    originals,
    processes,
    reference,
    replay,
    report,
    service,
    show,
    train,
    update_check,
    vector_stores,
)
from . import config as config_commands
from . import eval as evaluation
from .options import AsJson, Config, DataDir, Ratio, exit_with_error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
clara_server_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
Host = Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.", show_default=False)]
Port = Annotated[
    int | None, typer.Option(help="Port to listen on; 0 selects a free port. Default: 8765.", show_default=False)
]
Upstream = Annotated[
    str | None, typer.Option(help="Base URL of the upstream. Default: https://api.openai.com/v1.", show_default=False)
]
Mode = Annotated[
    str | None,
    typer.Option(
        help="off, observe, auto or extract; with a CLaRa model also answer, summary or latent; with a pruner prune.",
        show_default=False,
    ),
]

Processes = Annotated[
    int | None, typer.Option(help="Processes that serve the port, one for each core. Default: 1.", show_default=False)
]
Uds = Annotated[
    Path | None, typer.Option("--uds", help="Unix socket to listen on instead of a port.", show_default=False)
]
OpenDashboard = Annotated[bool, typer.Option("--open", help="Open the dashboard in a browser.")]
Reload = Annotated[bool, typer.Option("--reload", help="Restart when a source file changes; for developers.")]


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"clara-proxy {version('clara-proxy')}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
]


@app.callback()
def handle_global_options(version: Version = False) -> None:
    """An OpenAI-compatible proxy that compresses LLM requests and reports the tokens and dollars saved."""


@app.command()
def serve(
    config: Config = None,
    host: Host = None,
    port: Port = None,
    upstream: Upstream = None,
    data_dir: DataDir = None,
    mode: Mode = None,
    processes: Processes = None,
    uds: Uds = None,
    open_dashboard: OpenDashboard = False,
    reload: Reload = False,
) -> None:
    """Run the proxy until Ctrl-C or `clara-proxy stop`."""
    settings = options.load_settings(
        config,
        host=host,
        port=port,
        upstream_base_url=upstream,
        data_dir=data_dir,
        mode=mode,
        processes=processes,
    )
    _run_server(settings, uds, opens_dashboard=open_dashboard, reload=reload)


def _run_server(
    settings: Settings, uds: Path | None = None, *, opens_dashboard: bool = False, reload: bool = False
) -> None:
    gc.disable()  # what is loaded until the start stays in memory; the server enables it
    from ..stores.api_keys import KeyStoreError  # noqa: PLC0415
    from . import serve as server  # noqa: PLC0415

    if reload and (uds is not None or opens_dashboard or settings.processes > 1):
        exit_with_error("--reload cannot be combined with --uds, --open or --processes", 2)
    try:
        if reload:
            server.serve_with_reload(settings)
        else:
            server.serve(settings, socket_path=uds, opens_dashboard=opens_dashboard)
    except server.UnprotectedAddressError:
        openness = "CLARA_REQUIRE_KEYS=false and CLARA_OPEN=true" if settings.require_keys else "CLARA_OPEN=true"
        exit_with_error(
            f"other machines can reach {settings.host}, and there are no API keys. Create one with "
            f"`clara-proxy keys create NAME`, listen on 127.0.0.1, or set {openness} to accept every client",
            1,
        )
    except KeyStoreError as error:
        exit_with_error(str(error), 1)
    except OSError as error:
        if uds is not None:
            exit_with_error(f"cannot listen on {uds}: {error.strerror}; change it with --uds", 1)
        option = "--host" if isinstance(error, socket.gaierror) or error.errno == EADDRNOTAVAIL else "--port"
        exit_with_error(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; change it with {option}", 1
        )


@clara_server_app.command()
def serve_clara(
    *,
    host: Host = None,
    port: Port = None,
    model: Annotated[str | None, typer.Option(help="Folder or hub repository of a CLaRa checkpoint.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="Compression rate, such as compression-16.")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, cuda, mps, mlx or cpu.")] = None,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds until an idle model is unloaded: 0 at once, -1 never.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    reload: Reload = False,
    version: Version = False,  # noqa: ARG001 - its callback prints the version
) -> None:
    """Run the proxy for its CLaRa model, with the options of other CLaRa servers."""
    settings = options.load_settings(
        None,
        host=host,
        port=port,
        model=model,
        subfolder=subfolder,
        backend=backend,
        keep_alive=keep_alive,
        log_level=log_level.lower() if log_level else None,
    )
    _run_server(settings, reload=reload)


@app.command()
def demo(
    turns: Annotated[int, typer.Option(help="Maximum number of turns per conversation; 0 replays all.")] = 0,
) -> None:
    """Replay recorded agent conversations through a local proxy and print the savings."""
    log_setup.configure_logging("warning")
    from .demo.run import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(turns))


@app.command(
    # Options after CMD belong to it.
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--] CMD [ARGS]...",
)
def wrap(context: typer.Context, config: Config = None, upstream: Upstream = None, data_dir: DataDir = None) -> None:
    """Run a command behind a temporary proxy and print the savings.

    Known clients (claude, codex, opencode, aider, openhands, ...) get every setting that they need.

    Any other command must read OPENAI_BASE_URL or ANTHROPIC_BASE_URL.
    """
    if not context.args:
        exit_with_error("no command given; use `clara-proxy wrap -- CMD ARGS`", 2)
    from . import client_setup  # noqa: PLC0415
    from .wrap import run_wrapped  # noqa: PLC0415

    setup = client_setup.prepare(context.args, build_child_environment())
    settings = options.load_settings(config, defaults=setup.upstreams, upstream_base_url=upstream, data_dir=data_dir)
    raise typer.Exit(run_wrapped(setup, settings))


@app.command()
def doctor(
    client: Annotated[str, typer.Argument(help="Also check this client: claude, codex, aider, ...")] = "",
    config: Config = None,
    upstream: Upstream = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Check the setup and print a remedy for every problem. Exits with status 1 if it finds one."""
    from . import client_setup, clients  # noqa: PLC0415

    if client and clients.find_client(client) is None:
        exit_with_error(f"unknown client {client!r}; known are {', '.join(sorted(clients.CLIENTS))}", 2)
    setup = client_setup.prepare([client], build_child_environment()) if client else None
    defaults = setup.upstreams if setup else None
    settings = options.load_settings(config, defaults=defaults, upstream_base_url=upstream, data_dir=data_dir)
    from .doctor import check_client, run_checks  # noqa: PLC0415

    checks = asyncio.run(run_checks(settings, setup.client.apis if setup and setup.client else ("openai",)))
    if setup:
        checks += check_client(setup, settings)
    if as_json:
        options.print_json([check._asdict() for check in checks])
    for check in () if as_json else checks:
        options.print_finding(check.name, check.result, is_ok=not check.remedy, remedy=check.remedy)
    raise typer.Exit(1 if any(check.remedy for check in checks) else 0)


app.command()(report.report)
app.command()(show.show)


@app.command()
def compress(
    file: Annotated[
        Path | None,
        typer.Argument(help="Text file to compress. Default, and with -: standard input.", allow_dash=True),
    ] = None,
    query: Annotated[str, typer.Option(help="Question that the compressed text should answer.")] = "",
    ratio: Ratio = None,
    model: Annotated[str, typer.Option(help="Model whose vocabulary counts the tokens.")] = "gpt-4o",
    config: Config = None,
) -> None:
    """Compress a file or standard input, and print the result. Token counts go to standard error."""
    settings = options.load_settings(config, ratio=ratio)
    if file is None and sys.stdin.isatty():
        exit_with_error("name a file, or pipe a text into the command", 2)
    from ..runtime.in_process import compress_passage  # noqa: PLC0415

    try:
        content = sys.stdin.buffer.read() if file is None or str(file) == "-" else file.read_bytes()
        text = content.decode()
    except OSError as error:
        exit_with_error(f"cannot read {file}: {error.strerror}", 2)
    except UnicodeDecodeError:
        exit_with_error(f"cannot read {file or 'standard input'}: not UTF-8 text", 2)
    outcome, before = compress_passage(text, query, settings.ratio, model)
    result = text if outcome.text is None else outcome.text
    if (text.endswith("\n") or sys.stdout.isatty()) and not result.endswith("\n"):
        result += "\n"
    sys.stdout.buffer.write(result.encode())  # a text that is not compressed stays the same, byte for byte
    sys.stdout.buffer.flush()
    note = f", unchanged: {outcome.reason}" if outcome.reason else ""
    typer.echo(f"{outcome.compressor}: {before} -> {outcome.tokens} tokens{note}", err=True)


app.command()(ingest.ingest)
app.command()(ask.ask)
app.command()(processes.ps)
app.command()(processes.stop)
app.command()(digest.digest)
app.command()(replay.replay)
app.command()(train.train)
app.command("eval")(evaluation.evaluate)
app.command()(mcp.mcp)
app.command("update-check")(update_check.update_check)
app.command()(reference.reference)
app.add_typer(service.app, name="service")
app.add_typer(config_commands.app, name="config")
app.add_typer(keys.app, name="keys")
app.add_typer(ledger.app, name="ledger")
app.add_typer(originals.app, name="originals")
app.add_typer(vector_stores.app, name="stores")
app.add_typer(models.app, name="models")
help_format.simplify_help(app)
help_format.simplify_help(clara_server_app)


def main() -> None:
    """Run `clara-proxy`."""
    _run_app(app, ["serve", "--open"] if is_double_clicked(sys.argv, has_terminal=sys.stdin.isatty()) else None)


def main_clara_server() -> None:
    """Run `clara-server`."""
    _run_app(clara_server_app)


def _run_app(command_line: typer.Typer, arguments: list[str] | None = None) -> None:
    """Run a command line; an error that prevents a start is printed in one line, with status 2."""
    from ..stores.errors import StartupError  # noqa: PLC0415

    try:
        command_line(arguments)
    except StartupError as error:
        typer.echo(f"clara-proxy: {error}", err=True)
        sys.exit(2)


def is_double_clicked(arguments: Sequence[str], *, has_terminal: bool) -> bool:
    """Return True if the one-file executable was started from a desktop: without arguments and without a terminal."""
    return len(arguments) == 1 and not has_terminal and zipfile.is_zipfile(arguments[0])
