"""`sekali stats`: the counters of a server, and its topics with the most events."""

from __future__ import annotations

import heapq
import sys
import time
from datetime import timedelta
from itertools import islice
from typing import Annotated, Final

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sekali.cli import options
from sekali.cli.terminal import EXIT_INTERRUPTED, fail, stdout, visible
from sekali.client import ONCE, Client, Stats, TopicSummary
from sekali.client.retry import may_pass
from sekali.errors import SekaliError

TOPICS_READ_MAX: Final = 10_000
"""The largest are sought among so many topics; a look should stay quick."""


def stats(
    top: Annotated[
        int, typer.Option(min=0, max=1000, metavar="N", help="Show the N topics with the most events.")
    ] = 10,
    is_json: Annotated[bool, typer.Option("--json", help="The answer of /stats as it is, on one line.")] = False,
    is_watching: Annotated[bool, typer.Option("--watch", "-w", help="Look again and again.")] = False,
    interval_s: Annotated[float, typer.Option("--interval", min=0.1, metavar="S", help="Seconds between looks.")] = 2.0,
    url: options.Url = options.DEFAULT_URL,
) -> None:
    """Show the counters of a server.

    received = unique + duplicates, always. Conflicts, the same id with
    another payload, are duplicates too.

    Examples:

    $ sekali stats

    $ sekali stats --json
    """
    try:
        with options.connect(url, ONCE) as client:
            if is_json:
                _print_json(client, interval_s if is_watching else None)
            elif is_watching:
                _watch(client, top, interval_s)
            else:
                stdout().print(view(client, top))
    except SekaliError as error:
        fail(error.detail)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def view(client: Client, top: int) -> Group:
    """Counters and the largest topics, as tables without lines."""
    figures = client.stats()
    parts: list[RenderableType] = [_counters(figures)]
    if top and figures.topics_total:
        read = list(islice(client.topics(), TOPICS_READ_MAX))
        parts += [Text(), _topics(heapq.nlargest(top, read, key=lambda topic: topic.events))]
        if figures.topics_total > len(read):
            parts.append(
                Text(f"(sought among the first {len(read):,} of {figures.topics_total:,} topics)", style="dim")
            )
    return Group(*parts)


def _print_json(client: Client, interval_s: float | None) -> None:
    while True:
        sys.stdout.buffer.write(client.stats_json() + b"\n")
        sys.stdout.flush()
        if interval_s is None:
            return
        time.sleep(interval_s)


def _watch(client: Client, top: int, interval_s: float) -> None:
    """Until Ctrl-C. While the server is away, the last figures stay with a line that says so."""
    shown = view(client, top)
    with Live(shown, console=stdout(), auto_refresh=False, transient=False) as live:
        while True:
            time.sleep(interval_s)
            try:
                shown = view(client, top)
                live.update(shown, refresh=True)
            except SekaliError as error:
                if not may_pass(error):
                    raise
                live.update(Group(shown, Text(visible(f"{error.detail}; waiting for it"), style="red")), refresh=True)


def _counters(figures: Stats) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    repeated = figures.duplicate_dropped / figures.received if figures.received else 0.0
    rows = (
        ("received", f"{figures.received:,}", ""),
        ("unique", f"{figures.unique_processed:,}", "stored, each once"),
        ("duplicates", f"{figures.duplicate_dropped:,}", f"{repeated:.1%} of what was received"),
        ("conflicts", f"{figures.conflicts:,}", "duplicates whose payload differs"),
        ("topics", f"{figures.topics_total:,}", ""),
        ("queue depth", f"{figures.queue_depth:,}", "admitted, not yet answered"),
        ("workers", f"{figures.workers:,}", ""),
        ("uptime", str(timedelta(seconds=int(figures.uptime_seconds))), ""),
    )
    for row in rows:
        table.add_row(*row)
    table.add_row("store", Text(visible(figures.db_path)), "")
    return table


def _topics(topics: list[TopicSummary]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("topic", overflow="fold")
    for name in ("events", "duplicates", "conflicts"):
        table.add_column(name, justify="right")
    table.add_column("last received")
    for topic in topics:
        last = (topic.last_received_at or "")[:19].replace("T", " ")
        figures = (f"{topic.events:,}", f"{topic.duplicates:,}", f"{topic.conflicts:,}")
        table.add_row(Text(visible(topic.topic), style="cyan"), *figures, last)
    return table
