"""The command `clara-proxy mcp`: an MCP server on standard input and output, or on HTTP."""

import asyncio
from contextlib import ExitStack
from typing import Annotated

import typer

from ...config.settings import Settings
from . import options
from .options import Config, exit_with_error

Url = Annotated[str | None, typer.Option(help="A running proxy; without it, this starts one of its own.")]
Key = Annotated[str | None, typer.Option(envvar="OPENAI_API_KEY", help="Whose originals they are: the agent's key.")]
Http = Annotated[bool, typer.Option("--http", help="Serve HTTP at /mcp; clients then show keys of their own.")]
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
    """Offer an agent the tools clara_expand, clara_compress and clara_savings by MCP."""
    chosen = options.load_settings(config)
    if http and not chosen.open and not _is_guarded(host, url, chosen):
        exit_with_error(f"others can reach {host}, and nobody needs a key: docs/keys.md says how to make one", 1)
    try:
        from ..integrations.mcp_server import ProxyClient, create_server  # noqa: PLC0415 - an extra
    except ImportError as error:
        exit_with_error(f"the MCP server needs the extra: pip install 'clara-proxy[mcp]' ({error})", 1)
    with ExitStack() as stack:
        made = create_server(ProxyClient(url or _start_proxy(stack, chosen), key))
        if http:
            made.run("streamable-http", host=host, port=port)
        else:
            made.run("stdio")


def _is_guarded(host: str, url: str | None, chosen: Settings) -> bool:
    """Say whether strangers stay out: the proxy takes whoever comes through here for somebody on this machine."""
    from ..access.origins import is_loopback  # noqa: PLC0415
    from ..stores.api_keys import KeyStoreError  # noqa: PLC0415
    from .serve import is_unprotected  # noqa: PLC0415

    if is_loopback(host):
        return True
    try:
        return url is None and not asyncio.run(is_unprotected(chosen.model_copy(update={"host": host})))
    except KeyStoreError as error:
        exit_with_error(str(error), 1)


def _start_proxy(stack: ExitStack, chosen: Settings) -> str:
    """Run a proxy on a free loopback port, with the stores that the settings name, and return where it is."""
    from ..app import create_app  # noqa: PLC0415 - only here is it needed
    from .serve import run_in_thread  # noqa: PLC0415

    return stack.enter_context(run_in_thread(create_app(chosen)))
