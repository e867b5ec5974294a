"""`sekali ledger`: who sent again what, and who does so most."""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from sekali.cli import options
from sekali.cli.terminal import EXIT_INTERRUPTED, fail, note, print_json_line, stdout, visible
from sekali.client import ONCE, PAGE_EVENTS, Client, LedgerEntry, LedgerFilter, LedgerLine
from sekali.errors import SekaliError

LAST_ENTRIES: Final = 20
PAIRS_SHOWN: Final = 1_000
ENTRIES_MAX: Final = 10_000
PAIRS_HELD_MAX: Final = 20_000
"""So many pairs of topic and source are counted at a time; past it the half that resent least is let go of."""


def ledger(
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", metavar="NAME", help="Only this topic; may be repeated.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", "-s", metavar="NAME", help="Only what this source sent again.")
    ] = None,
    is_conflicts_only: Annotated[
        bool, typer.Option("--conflicts", help="Only resends whose payload differed.")
    ] = False,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=1,
            max=ENTRIES_MAX,
            metavar="N",
            help="The newest N; with --summary, the N that resent most. [default: 20; with --summary, 1000]",
        ),
    ] = None,
    is_summary: Annotated[bool, typer.Option("--summary", help="Count by topic and source instead.")] = False,
    is_json: Annotated[bool, typer.Option("--json", help="NDJSON instead of a table.")] = False,
    url: options.Url = options.DEFAULT_URL,
) -> None:
    """Show who sent again what: the newest resends, oldest of them first.

    A resend is a duplicate, or a conflict when its payload differed from
    the stored one. The source is that of the resend.

    Examples:

    $ sekali ledger -n 5 --conflicts

    $ sekali ledger --summary
    """
    where = LedgerFilter(tuple(topic or ()), source, "conflict" if is_conflicts_only else None)
    try:
        with options.connect(url, ONCE) as client:
            if is_summary:
                _show_summary(summary(client, where), count or PAIRS_SHOWN, is_json=is_json)
                return
            lines = newest_lines(client, where, count or LAST_ENTRIES)
            if not is_json:
                stdout().print(_entries_table([line.entry for line in lines]))
                return
            for line in lines:
                print_json_line(line.line)
            sys.stdout.flush()
    except SekaliError as error:
        fail(error.detail)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def newest_lines(client: Client, where: LedgerFilter, count: int) -> Sequence[LedgerLine]:
    """The newest `count` entries, oldest first."""
    newest_first: list[LedgerLine] = []
    after: str | None = None
    while len(newest_first) < count:
        limit = min(count - len(newest_first), PAGE_EVENTS)
        page = client.ledger_page(where, after=after, newest_first=True, limit=limit)
        newest_first += page.lines
        after = page.cursor
        if after is None:
            break
    return newest_first[::-1]


@dataclass(slots=True)
class Resends:
    """What one source sent again to one topic."""

    topic: str
    source: str
    resends: int = 0
    """Conflicts included."""
    conflicts: int = 0
    last_received_at: str = ""


@dataclass(slots=True)
class Summary:
    """Counts per (topic, source) in bounded memory.

    Exact while there are at most PAIRS_HELD_MAX pairs. Past it those that resent least are let go of, again and
    again, and `let_go` counts their resends: no count is then short by more than that.
    """

    by_pair: dict[tuple[str, str], Resends] = field(default_factory=dict)
    resends: int = 0
    conflicts: int = 0
    let_go: int = 0

    def add(self, entries: Iterable[LedgerEntry]) -> None:
        for entry in entries:
            pair = (entry.topic, entry.source)
            counts = self.by_pair.get(pair)
            if counts is None:
                if len(self.by_pair) >= PAIRS_HELD_MAX:
                    self._let_go()
                counts = self.by_pair[pair] = Resends(*pair)
            is_conflict = entry.status == "conflict"
            counts.resends += 1
            counts.conflicts += is_conflict
            counts.last_received_at = entry.received_at
            self.resends += 1
            self.conflicts += is_conflict

    def top(self, count: int) -> list[Resends]:
        """Those that resent most, by falling count and then by name."""
        return heapq.nsmallest(count, self.by_pair.values(), key=lambda each: (-each.resends, each.topic, each.source))

    def _let_go(self) -> None:
        kept = self.top(PAIRS_HELD_MAX // 2)
        self.let_go = self.resends - sum(each.resends for each in kept)
        self.by_pair = {(each.topic, each.source): each for each in kept}


def summary(client: Client, where: LedgerFilter) -> Summary:
    """Counts over the whole ledger, page by page."""
    found = Summary()
    for page in client.ledger_pages(where, event_ids=False):
        found.add(page.entries)
    return found


def _show_summary(found: Summary, count: int, *, is_json: bool) -> None:
    shown = found.top(count)
    if is_json:
        for each in shown:
            members = {name: getattr(each, name) for name in Resends.__slots__}
            print_json_line(json.dumps(members, ensure_ascii=False).encode())
        sys.stdout.flush()
    else:
        stdout().print(_summary_table(shown))
        total = f"{found.resends:,} resends, {found.conflicts:,} of them conflicts"
        hidden = len(found.by_pair) - len(shown)
        stdout().print(total + (f"; pairs of topic and source not shown: {hidden:,}" if hidden else ""))
    if found.let_go:
        note(
            f"more than {PAIRS_HELD_MAX:,} pairs of topic and source: each count may be short by up to {found.let_go:,}"
        )


def _entries_table(entries: Iterable[LedgerEntry]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("received", style="dim")
    table.add_column("status")
    for name in ("topic", "event_id"):
        table.add_column(name, overflow="fold")
    table.add_column("offset", justify="right")
    table.add_column("source", overflow="fold")
    for entry in entries:
        table.add_row(
            Text(_seconds(entry.received_at)),
            Text(entry.status, style="red" if entry.status == "conflict" else ""),
            Text(visible(entry.topic), style="cyan"),
            Text(visible(entry.event_id or "")),
            str(entry.offset),
            Text(visible(entry.source)),
        )
    return table


def _summary_table(found: Iterable[Resends]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("topic", "source"):
        table.add_column(name, overflow="fold")
    for name in ("resends", "conflicts"):
        table.add_column(name, justify="right")
    table.add_column("last received")
    for each in found:
        names = (Text(visible(each.topic), style="cyan"), Text(visible(each.source)))
        last = Text(_seconds(each.last_received_at))
        table.add_row(*names, f"{each.resends:,}", f"{each.conflicts:,}", last)
    return table


def _seconds(received_at: str) -> str:
    return visible(received_at[:19].replace("T", " "))
