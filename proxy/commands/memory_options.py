"""Options, owner and database of the commands `ingest`, `ask` and `stores`."""

import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ...config.settings import Settings
from .options import exit_with_error

if TYPE_CHECKING:
    from ..stores.memory_store import MemoryStore

MIN_KEY_LENGTH = 16  # a shorter text is the name of a key
StoreName = Annotated[str, typer.Option("--store", help="Name or id of the vector store.", show_default=False)]
KeyName = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="Owner of the files: an API key, or its name in `clara-proxy keys list`. Default: requests without a key.",
        show_default=False,
    ),
]


async def resolve_owner(settings: Settings, key: str | None) -> str:
    """Return the owner id of clients with this key, or of requests without a key."""
    from ..access.authentication import ANONYMOUS  # noqa: PLC0415 - slow, and `--help` does not need it
    from ..stores import api_keys  # noqa: PLC0415
    from ..stores.ledger import ledger_url  # noqa: PLC0415

    if key is None:
        return ANONYMOUS
    folder = settings.data_dir.expanduser()
    if settings.ledger_url or (folder / "ledger.sqlite3").exists():
        try:
            async with api_keys.open_key_store(ledger_url(folder, settings.ledger_url)) as keys:
                for stored in await keys.list_keys():
                    if stored.name == key:
                        return stored.hash[:32]
        except (api_keys.KeyStoreError, ValueError) as error:
            exit_with_error(str(error), 2)
    if len(key) < MIN_KEY_LENGTH:
        exit_with_error(f"there is no key with the name {key!r}; `clara-proxy keys list` lists them", 2)
    return api_keys.hash_key(key)[:32]


@asynccontextmanager
async def open_database(settings: Settings, *, creates: bool = False) -> "AsyncGenerator[MemoryStore]":
    """Open the database of memory; a missing or unusable one ends the command with status 2."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from ..memory.service import locate_database  # noqa: PLC0415
    from ..stores.errors import describe  # noqa: PLC0415
    from ..stores.memory_store import open_memory  # noqa: PLC0415

    file = settings.data_dir.expanduser() / "memory.sqlite3"
    if settings.memory_url is None and not creates and not file.exists():
        exit_with_error(f"there is no memory in {file.parent}; `clara-proxy ingest FOLDER --store NAME` makes one", 2)
    try:
        async with open_memory(locate_database(settings)) as memory:
            yield memory
    except (ValueError, OSError, SQLAlchemyError, sqlite3.Error) as error:
        exit_with_error(f"the memory cannot be used: {describe(error)}", 2)
