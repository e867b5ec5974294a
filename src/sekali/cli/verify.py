"""`sekali verify`: is everything in a store whole?"""

from __future__ import annotations

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from sekali.cli import options
from sekali.cli.terminal import fail, stderr, stdout, visible
from sekali.errors import SekaliError


def verify(db: options.Db = None) -> None:
    """Look through a whole store for damage, also while it is being served.

    Reads every row and compares its checksum, decodes every block, and
    compares what they hold with the counters. Changes nothing.

    Exit status: 1 when something is damaged, or there is no store.

    Example:

    $ sekali verify --db ./data/store.db
    """
    # Imported here: the other commands do not need the store.
    from sekali.store.verify import verify as look_through

    source = options.settings(db).db_file
    console = stderr()
    columns = (TextColumn("verifying"), BarColumn(), TaskProgressColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("verifying")

            def show(done_events: int, total_events: int) -> None:
                progress.update(task, completed=done_events, total=total_events)

            found = look_through(source, show)
    except SekaliError as error:
        fail(error.detail)
    for problem in found.problems:
        stdout().print(visible(problem))
    more = found.problems_total - len(found.problems)
    if more:
        stdout().print(f"and {more:,} more")
    if found.problems_total:
        things = "one thing is" if found.problems_total == 1 else f"{found.problems_total:,} things are"
        fail(f"{source} is damaged: {things} wrong. Restore it from a backup.")
    stdout().print(f"{visible(str(source))}: {found.events:,} events, {found.duplicates:,} duplicates: sound")
