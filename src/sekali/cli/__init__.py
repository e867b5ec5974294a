"""The `sekali` command. Each command has a file of its own; nothing here but their assembly.

Exit status of every command: 0 done, 1 not done (one line on stderr says why), 2 the command line is wrong,
130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from sekali import __version__
from sekali.cli import backup, demo, ledger, publish, serve, stats, tail, verify
from sekali.cli.terminal import tolerate_any_character

app = typer.Typer(
    name="sekali",
    help="Keep every event exactly once: serve a store, publish to it, read from it.",
    no_args_is_help=True,
    # Frames and colour for a person; for a pipe or a log, and with NO_COLOR, plain text.
    rich_markup_mode="rich"
    if sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    else None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    serve.serve,
    publish.publish,
    tail.tail,
    stats.stats,
    ledger.ledger,
    backup.backup,
    verify.verify,
    demo.demo,
):
    app.command()(command)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"sekali {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep every event exactly once: serve a store, publish to it, read from it."""


def run() -> None:
    tolerate_any_character()
    # The HTTP library tells of every request at this level.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    app(prog_name="sekali")
