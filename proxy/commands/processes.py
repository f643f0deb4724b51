"""The commands `clara-proxy ps` and `stop`: the running proxies of a data directory."""

import os
import signal
from typing import Annotated

import typer

from . import options, run_files
from .options import AsJson, Config, DataDir, exit_with_error, format_timestamp

STOP_TIMEOUT = 60.0  # seconds; running requests may finish first


def ps(data_dir: DataDir = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the running proxies: process, address, upstream, mode and start."""
    folder = run_files.locate_run_files(options.load_settings(config, data_dir=data_dir))
    proxies = list(run_files.find_running(folder))
    if as_json:
        options.print_json([proxy._asdict() for proxy in proxies])
        return
    if not proxies:
        typer.echo(f"no proxy runs with the data directory {folder.parent}", err=True)
    for proxy in proxies:
        since = format_timestamp(proxy.started)
        typer.echo(f"{proxy.pid:>7}  {proxy.url}  -> {proxy.upstream}  mode {proxy.mode}  since {since}")


def stop(
    pid: Annotated[
        int | None, typer.Argument(help="Process to stop. Default: the only one.", show_default=False)
    ] = None,
    all_proxies: Annotated[bool, typer.Option("--all", help="Stop every proxy of the data directory.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Stop a running proxy; its running requests may finish. Exits with status 1 if none runs."""
    folder = run_files.locate_run_files(options.load_settings(config, data_dir=data_dir))
    pids = [proxy.pid for proxy in run_files.find_running(folder) if pid in (None, proxy.pid)]
    if not pids:
        name = "no proxy" if pid is None else f"no proxy with process number {pid}"
        exit_with_error(f"{name} runs with the data directory {folder.parent}", 1)
    if len(pids) > 1 and not all_proxies:
        exit_with_error(f"{len(pids)} proxies run ({', '.join(map(str, pids))}); name one, or use --all", 2)
    for number in pids:
        try:
            os.kill(number, signal.SIGTERM)
        except ProcessLookupError:
            continue  # it has just ended
        except PermissionError:
            exit_with_error(f"process {number} belongs to another user", 1)
    for number in pids:
        if not run_files.wait_until_stopped(folder, number, STOP_TIMEOUT):
            exit_with_error(f"process {number} still runs after {STOP_TIMEOUT:.0f} s", 1)
        typer.echo(f"stopped {number}")
