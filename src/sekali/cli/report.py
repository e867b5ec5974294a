"""What `sekali publish` tells: progress, each item that is not stored as sent, and the summary."""

from __future__ import annotations

import time
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from sekali.cli.inputs import EventInput, InputFormat
from sekali.cli.sender import Account, Trouble
from sekali.cli.terminal import visible

TROUBLES_SHOWN_MAX: Final = 100
RANGES_MAX: Final = 1000


class Places:
    """Line numbers as ranges: `3, 17-25`. Bounded: past RANGES_MAX ranges only the last one is extended."""

    def __init__(self) -> None:
        self._ranges: list[list[int]] = []
        self._is_full = False

    def add(self, place: int) -> None:
        if self._ranges and place <= self._ranges[-1][1] + 1:
            self._ranges[-1][1] = max(place, self._ranges[-1][1])
        elif len(self._ranges) < RANGES_MAX:
            self._ranges.append([place, place])
        else:
            self._is_full = True

    def __str__(self) -> str:
        texts = [str(first) if first == last else f"{first}-{last}" for first, last in self._ranges]
        return ", ".join(texts) + (" and more" if self._is_full else "")


class Report:
    """What a person sees while it runs, and the summary."""

    def __init__(
        self,
        events: EventInput,
        console: Console,
        size_bytes: int | None,
        *,
        complete_lines: bool = False,
        is_quiet: bool,
    ) -> None:
        """`size_bytes` of the input, None for a pipe. The bar is drawn on a terminal only."""
        self._events = events
        self._may_grow = size_bytes is not None
        self._complete_lines = complete_lines
        self._console = console
        self._started_s = time.monotonic()
        self._troubled = Places()
        self._troubles = 0
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        is_shown = console.is_terminal and not is_quiet
        self.progress = Progress(*columns, console=console, transient=True, disable=not is_shown)
        self._task = self.progress.add_task("0 events", total=size_bytes)

    def advance(self, account: Account, troubles: list[Trouble]) -> None:
        for trouble in troubles:
            self._troubles += 1
            self._troubled.add(trouble.place)
            if self._troubles <= TROUBLES_SHOWN_MAX:
                self._console.print(f"{self._events.unit} {trouble.place}: {visible(trouble.reason)}")
        text = f"{account.read:,} events, {self._rate(account):,.0f}/s"
        self.progress.update(self._task, completed=self._events.bytes_read, description=text)

    def summary(self, account: Account, *, is_dry_run: bool) -> str:
        """`read 3, stored 2, duplicates 1, conflicts 0, rejected 0 (0.1 s, 30/s)`."""
        fields = [f"read {account.read}", f"{'good' if is_dry_run else 'stored'} {account.stored}"]
        if not is_dry_run:
            fields += [f"duplicates {account.duplicates}", f"conflicts {account.conflicts}"]
        fields.append(f"rejected {account.rejected}")
        if account.not_sent:
            fields.append(f"unanswered {account.not_sent}")
        if self._events.empty_lines:
            fields.append(f"empty lines {self._events.empty_lines}")
        if account.resent_batches:
            fields.append(f"requests repeated {account.resent_batches}")
        elapsed_s = time.monotonic() - self._started_s
        return f"{', '.join(fields)} ({elapsed_s:.1f} s, {self._rate(account):,.0f}/s)"

    def troubled_places(self) -> str | None:
        """One line that names every place where something was wrong, or None."""
        if not self._troubles:
            return None
        unit = self._events.unit if self._troubles == 1 else f"{self._events.unit}s"
        return f"not stored as sent: {self._troubles} {unit}: {self._troubled}"

    def open_line(self) -> str | None:
        """One line about a last line without line end, where it was left out or might be sent once more; or None."""
        number = self._events.open_line
        if number is None:
            return None
        if self._complete_lines:
            return f"line {number} has no line end and was left out"
        if self._may_grow and self._events.form is InputFormat.TEXT:
            return (
                f"line {number}, the last one, has no line end: if the file still grows there, the longer line will be "
                "another event (--complete-lines leaves it out)"
            )
        return None

    def _rate(self, account: Account) -> float:
        """Events a second so far."""
        return account.read / max(time.monotonic() - self._started_s, 1e-9)
