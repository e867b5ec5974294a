"""`sekali tail`: the last events, and then what comes."""

from __future__ import annotations

import math
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

import typer
from rich.text import Text

from sekali.cli import options
from sekali.cli.outage import Outage
from sekali.cli.terminal import EXIT_INTERRUPTED, EXIT_USAGE, fail, print_json_line, stderr, stdout, visible
from sekali.client import PAGE_EVENTS, Client, EventFilter, EventLine, RetryPolicy, StoredEvent
from sekali.errors import SekaliError

LAST_EVENTS: Final = 10
LAST_EVENTS_MAX: Final = 10_000
GIVE_UP_AFTER_S: Final = 30.0
"""When not following."""
_DURATION: Final = re.compile(r"(\d{1,9})([smhd])")
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def tail(
    topic: Annotated[
        list[str] | None, typer.Option("--topic", "-t", metavar="NAME", help="Only this topic; may be repeated.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            min=0,
            max=LAST_EVENTS_MAX,
            metavar="N",
            help="Begin with the last N events; with --since, the last N of those. [default: 10; with --since, all]",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Begin with what was received since then: 15m, 2h, 7d, or an ISO 8601 time."),
    ] = None,
    is_from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the first event.")] = False,
    is_following: Annotated[bool, typer.Option("--follow/--no-follow", help="Go on with what comes.")] = True,
    is_json: Annotated[bool, typer.Option("--json", help="NDJSON, each event as the server sends it.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.05, metavar="S", help="Seconds between looks.")
    ] = 1.0,
    url: options.Url = options.DEFAULT_URL,
) -> None:
    """Show the last events, and then each new one.

    The server may go away and come back: no event is left out and none
    shown twice. Ctrl-C ends it.

    Examples:

    $ sekali tail --topic alerts -n 5 --no-follow

    $ sekali tail --since 1h --no-follow --json
    """
    count = _last_count(count, since, is_from_start=is_from_start)
    where = EventFilter(topics=tuple(topic or ()), since=None if since is None else since_text(since))
    outage = Outage(stderr())
    retry = RetryPolicy(
        give_up_after_s=math.inf if is_following else GIVE_UP_AFTER_S, wait_s_max=5.0, on_retry=outage.begin
    )
    show = show_json if is_json else show_plain
    try:
        with options.connect(url, retry) as client:
            cursor = None
            if count is not None:
                lines = last_lines(client, where, max(count, 1))
                show(lines[-count:] if count else [])
                cursor = str(lines[-1].event.offset) if lines else None
                if not is_following:
                    return
            follow(client, where, cursor, show, outage, interval_s if is_following else None)
    except SekaliError as error:
        fail(error.detail)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _last_count(count: int | None, since: str | None, *, is_from_start: bool) -> int | None:
    """How many of the last events to begin with; None for all. Ends the command on a contradiction."""
    for given, option in ((since, "--since"), (count, "-n")):
        if given is not None and is_from_start:
            fail(f"{option} and --from-start contradict each other", EXIT_USAGE)
    return LAST_EVENTS if count is None and since is None and not is_from_start else count


def last_lines(client: Client, where: EventFilter, count: int) -> list[EventLine]:
    """The last `count` events, oldest first. Large ones come in several pages."""
    newest_first: list[EventLine] = []
    before: str | None = None
    while len(newest_first) < count:
        limit = min(count - len(newest_first), PAGE_EVENTS)
        page = client.page(where, before=before, newest_first=True, limit=limit)
        newest_first += page.lines
        if not page.more:
            break
        before = page.cursor
    return newest_first[::-1]


def follow(
    client: Client,
    where: EventFilter,
    cursor: str | None,
    show: Callable[[Sequence[EventLine]], None],
    outage: Outage,
    interval_s: float | None,
) -> None:
    """Show everything behind `cursor`; then look again every `interval_s`, or return when that is None."""
    while True:
        page = client.page(where, after=cursor)
        outage.end()
        show(page.lines)
        cursor = page.cursor
        if page.more:
            continue
        if interval_s is None:
            return
        time.sleep(interval_s)


def show_plain(lines: Sequence[EventLine]) -> None:
    """A line an event: offset, time, topic, and the payload, or the text where the event is a line of text."""
    console = stdout()
    for line in lines:
        event = line.event
        text = Text(f"{event.offset:>7} ", style="dim")
        text.append(visible(event.timestamp), style="dim")
        text.append(f" {visible(event.topic)} ", style="cyan")
        text.append(visible(_summary(event)), style="not dim")
        console.print(text)
    sys.stdout.flush()


def show_json(lines: Sequence[EventLine]) -> None:
    """NDJSON as the server sends it."""
    for line in lines:
        print_json_line(line.line)
    sys.stdout.flush()


def since_text(text: str) -> str:
    """`15m` as the ISO 8601 time that long ago; anything else as it is, for the server to judge."""
    found = _DURATION.fullmatch(text)
    if found is None:
        return text
    try:
        return (datetime.now(UTC) - timedelta(seconds=int(found[1]) * _UNIT_S[found[2]])).isoformat()
    except OverflowError:
        fail(f"--since: {text} is further back than time goes", EXIT_USAGE)


def _summary(event: StoredEvent) -> str:
    """What `sekali publish --topic` made of a line is shown as that line."""
    text = bytes(event.payload_json).decode()
    if text.startswith('{"line":'):
        payload = event.payload
        if set(payload) <= {"line", "message", "escaped"} and isinstance(payload.get("message"), str):
            return str(payload["message"])
    return text
