"""The command `clara-proxy mcp`: an MCP server over standard input and output, or over HTTP."""

import asyncio
from contextlib import ExitStack
from typing import Annotated

import typer

from ...config.extras import describe_install
from ...config.settings import Settings
from . import options
from .options import Config, exit_with_error

Url = Annotated[
    str | None, typer.Option(help="URL of a running proxy. Default: start a proxy of its own.", show_default=False)
]
Key = Annotated[
    str | None,
    typer.Option(envvar="OPENAI_API_KEY", help="API key of the agent; it owns the originals.", show_default=False),
]
Http = Annotated[bool, typer.Option("--http", help="Serve over HTTP at /mcp; every client sends its own API key.")]
Host = Annotated[str, typer.Option(help="Address to listen on, with --http.")]
Port = Annotated[int, typer.Option(help="Port to listen on, with --http.")]


def mcp(
    url: Url = None,
    key: Key = None,
    http: Http = False,
    host: Host = "127.0.0.1",
    port: Port = 8766,
    config: Config = None,
) -> None:
    """Serve tools to agents over MCP: clara_expand, clara_compress, clara_savings, remember, recall, list, forget."""
    settings = options.load_settings(config)
    if http and not settings.open and not _is_protected(host, url, settings):
        message = (
            f"other machines can reach {host}, and no API key is required; docs/keys.md explains how to create one"
        )
        exit_with_error(message, 1)
    try:
        from ..integrations.mcp_server import ProxyClient, create_server  # noqa: PLC0415 - an extra
    except ImportError as error:
        exit_with_error(f"the MCP server needs the extra: {describe_install('mcp')} ({error})", 1)
    with ExitStack() as stack:
        server = create_server(ProxyClient(url or _start_proxy(stack, settings), key))
        if http:
            server.run("streamable-http", host=host, port=port)
        else:
            server.run("stdio")


def _is_protected(host: str, url: str | None, settings: Settings) -> bool:
    """Return True if only this machine can reach the address, or if the proxy of this server requires API keys.

    The MCP server calls the proxy from this machine, so a proxy at `url` would treat every client as local.
    """
    from ..access.origins import is_loopback  # noqa: PLC0415
    from ..stores.api_keys import KeyStoreError  # noqa: PLC0415
    from .serve import is_unprotected  # noqa: PLC0415

    if is_loopback(host):
        return True
    try:
        return url is None and not asyncio.run(is_unprotected(settings.model_copy(update={"host": host})))
    except KeyStoreError as error:
        exit_with_error(str(error), 1)


def _start_proxy(stack: ExitStack, settings: Settings) -> str:
    """Start a proxy on a free loopback port, with the stores of the settings, and return its URL."""
    from ..app import create_app  # noqa: PLC0415 - slow, and not needed with `--url`
    from .serve import run_in_thread  # noqa: PLC0415

    return stack.enter_context(run_in_thread(create_app(settings)))
