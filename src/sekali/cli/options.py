"""Options that several commands have, and the connection they make."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from sekali import __version__
from sekali.cli.terminal import EXIT_USAGE, fail
from sekali.client import DEFAULT_URL as CLIENT_DEFAULT_URL
from sekali.client import Client, RetryPolicy
from sekali.errors import SekaliError

DEFAULT_URL: Final = CLIENT_DEFAULT_URL

Url = Annotated[str, typer.Option(metavar="URL", envvar="SEKALI_URL", help="The server.")]
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
