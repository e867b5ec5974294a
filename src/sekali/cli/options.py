"""Options that several commands have, and what they make of them: a connection, settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import ValidationError

from sekali import __version__
from sekali.cli.terminal import EXIT_USAGE, fail
from sekali.client import DEFAULT_URL as CLIENT_DEFAULT_URL
from sekali.client import Client, RetryPolicy
from sekali.errors import SekaliError
from sekali.settings import Settings, broken_settings

DEFAULT_URL: Final = CLIENT_DEFAULT_URL

Url = Annotated[str, typer.Option(metavar="URL", envvar="SEKALI_URL", help="The server.")]
Db = Annotated[Path | None, typer.Option(metavar="PATH", help="The store. [default: DB_PATH, else ./data/store.db]")]
RetrySeconds = Annotated[
    float, typer.Option("--retry-s", min=0, metavar="S", help="How long a request is repeated before it is given up.")
]


def connect(url: str, retry: RetryPolicy) -> Client:
    """A client of the server at `url`, which has answered. Ends the command when none does."""
    try:
        client = Client(url, retry=retry, user_agent=f"sekali/{__version__}")
    except ValueError as error:
        fail(f"--url: {error}", EXIT_USAGE)
    try:
        client.check()
    except SekaliError as error:
        client.close()
        fail(error.detail)
    return client


def settings(db: Path | None, workers: int | None = None) -> Settings:
    """From the environment, and over it what the command line says. Ends the command when one is out of range."""
    chosen: dict[str, Any] = {}
    if db is not None:
        chosen["DB_PATH"] = str(db)
    if workers is not None:
        chosen["CONSUMER_WORKERS"] = workers
    try:
        return Settings(**chosen)
    except ValidationError as error:
        fail(broken_settings(error), EXIT_USAGE)
