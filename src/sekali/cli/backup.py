"""`sekali backup`: a consistent copy of a store in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from sekali.cli import options
from sekali.cli.terminal import fail, stderr, stdout, visible
from sekali.errors import SekaliError


def backup(
    dest: Annotated[Path, typer.Argument(metavar="DEST", help="The file to write.")],
    db: options.Db = None,
    is_forced: Annotated[bool, typer.Option("--force", "-f", help="Replace DEST if it exists.")] = False,
) -> None:
    """Copy a store into one file, also while it is being served.

    Publishing goes on. DEST appears when the copy is complete and synced,
    and not before. To restore, stop the server, remove what lies beside
    the store (store.db-wal, store.db-shm), and put the copy in its place.

    Exit status: 1 when no copy was made; DEST is then what it was.

    Example:

    $ sekali backup backup.db --db ./data/store.db
    """
    # Imported here: the other commands do not need the store.
    from sekali.store.backup import back_up

    source = options.settings(db).db_file
    console = stderr()
    columns = (TextColumn("copying"), BarColumn(), TaskProgressColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("copying")

            def show(done_bytes: int, total_bytes: int) -> None:
                progress.update(task, completed=done_bytes, total=total_bytes)

            written = back_up(source, dest, replace=is_forced, on_progress=show)
    except SekaliError as error:
        fail(error.detail)
    stdout().print(f"{visible(str(dest))}: {written.events:,} events, {decimal(written.size_bytes)}")
