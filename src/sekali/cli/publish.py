"""`sekali publish`: a file or a pipe to the server, exactly once however often it is run."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import Annotated, BinaryIO, Final

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TaskProgressColumn, TextColumn

from sekali.cli import options
from sekali.cli.feed import Feed
from sekali.cli.inputs import EventInput, InputFormat, InputRefusedError, TextLabels
from sekali.cli.sender import Account, Publisher, Sender, Trouble
from sekali.cli.terminal import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail, note, stderr, stdout, visible
from sekali.client import Published, Receipt, RetryPolicy
from sekali.errors import SekaliError
from sekali.event import SOURCE_BYTES_MAX, TOPIC_BYTES_MAX
from sekali.settings import Settings
from sekali.wire.native import DecodeLimits, decode_publish

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024
TROUBLES_SHOWN_MAX: Final = 100
RANGES_MAX: Final = 1000


def publish(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="- is standard input.")],
    topic: Annotated[
        str | None, typer.Option(metavar="NAME", help="Send each line of text as an event of this topic.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Where the lines come from. [default: host and path, or host and stdin]"),
    ] = None,
    form: Annotated[InputFormat, typer.Option("--format", help="What the input holds.")] = InputFormat.AUTO,
    url: options.Url = options.DEFAULT_URL,
    batch: Annotated[int, typer.Option(min=1, max=50_000, metavar="N", help="Most events in one request.")] = 1000,
    retry_s: options.RetrySeconds = 60.0,
    is_strict: Annotated[bool, typer.Option("--strict", help="Stop at the first event that cannot be stored.")] = False,
    is_dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the input by the rules, and send nothing.")
    ] = False,
    is_quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Publish a file or a pipe. Sending it again adds nothing.

    FILE holds events as NDJSON or JSON, or, with --topic, lines of text:
    a line's event_id then comes from its source, number and content.
    Requests are sent in order, and repeated as long as that can help.

    Exit status: 0 all is stored, now or before; 1 something is not.

    Examples:

    $ echo "disk almost full" | sekali publish - --topic alerts

    $ sekali publish events.ndjson

    $ sekali publish /var/log/dpkg.log --topic os.dpkg
    """
    labels = _text_labels(file, topic, source, form)
    with _open(file) as stream:
        events = EventInput(stream, form, labels)
        if is_dry_run:
            _run(events, LocalCheck(), batch, stream, is_strict=is_strict, is_quiet=is_quiet, is_dry_run=True)
        else:
            retry = RetryPolicy(give_up_after_s=retry_s, on_retry=_announce_retry)
            with options.connect(url, retry) as client:
                _run(events, client, batch, stream, is_strict=is_strict, is_quiet=is_quiet, is_dry_run=False)


class LocalCheck:
    """Takes events as a server with default limits does, but stores nothing: what it accepts is called stored."""

    def __init__(self) -> None:
        settings = Settings()
        self._limits = DecodeLimits(
            batch_events_max=settings.batch_events_max,
            event_bytes_max=settings.event_bytes_max,
            depth_max=settings.depth_max,
            body_bytes_max=settings.body_bytes_max,
        )

    def publish_encoded(self, items: Sequence[bytes], *, partial: bool = False) -> Published:
        """Raises what the rules of decode_publish raise."""
        taken = decode_publish(b"[" + b",".join(items) + b"]", self._limits, partial=partial)
        receipts = [Receipt("stored")] * len(items)
        for rejection in taken.rejections:
            receipts[rejection.index] = Receipt("rejected", code=rejection.code, detail=rejection.detail)
        return Published(len(taken), 0, tuple(receipts))


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

    def __init__(self, events: EventInput, account: Account, size_bytes: int | None, *, is_quiet: bool) -> None:
        self._events = events
        self._account = account
        self._started_s = time.monotonic()
        self._troubled = Places()
        self._troubles = 0
        self._console = stderr()
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
        is_shown = self._console.is_terminal and not is_quiet
        self.progress = Progress(*columns, console=self._console, transient=True, disable=not is_shown)
        self._task: TaskID = self.progress.add_task("0 events", total=size_bytes)

    @property
    def rate(self) -> float:
        """Events a second so far."""
        return self._account.read / max(time.monotonic() - self._started_s, 1e-9)

    def advance(self, troubles: list[Trouble]) -> None:
        for trouble in troubles:
            self._troubles += 1
            self._troubled.add(trouble.place)
            if self._troubles <= TROUBLES_SHOWN_MAX:
                self._console.print(f"{self._events.unit} {trouble.place}: {visible(trouble.reason)}")
        text = f"{self._account.read:,} events, {self.rate:,.0f}/s"
        self.progress.update(self._task, completed=self._events.bytes_read, description=text)

    def summary(self, *, is_dry_run: bool) -> str:
        account = self._account
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
        return f"{', '.join(fields)} ({elapsed_s:.1f} s, {self.rate:,.0f}/s)"

    def troubled_places(self) -> str | None:
        """One line that names every place where something was wrong, or None."""
        if not self._troubles:
            return None
        unit = self._events.unit if self._troubles == 1 else f"{self._events.unit}s"
        return f"not stored as sent: {self._troubles} {unit}: {self._troubled}"


def _run(
    events: EventInput,
    publisher: Publisher,
    batch_events_max: int,
    stream: BinaryIO,
    *,
    is_strict: bool,
    is_quiet: bool,
    is_dry_run: bool,
) -> None:
    """Send everything, and end with the summary and the exit status."""
    sender = Sender(publisher, is_strict=is_strict)
    report = Report(events, sender.account, _size_bytes(stream), is_quiet=is_quiet)
    feed = Feed(events, batch_events_max=batch_events_max, batch_bytes_max=BATCH_BYTES_MAX)
    failure: str | None = None
    code = 0
    try:
        with report.progress:
            for batch in feed.batches():
                outcome = sender.send(batch)
                report.advance(outcome.troubles)
                if outcome.must_stop:
                    break
    except KeyboardInterrupt:
        failure, code = "interrupted; sending the same input again is safe", EXIT_INTERRUPTED
    except (InputRefusedError, OSError) as error:
        failure, code = str(error), EXIT_FAILED
    except SekaliError as error:
        failure, code = error.detail, EXIT_FAILED
    finally:
        feed.give_up()
    if places := report.troubled_places():
        note(places)
    if sender.account.read or not failure:
        stdout().print(report.summary(is_dry_run=is_dry_run))
    if failure is not None:
        fail(failure, code)
    if not sender.account.all_is_well:
        raise typer.Exit(EXIT_FAILED)


def _text_labels(file: str, topic: str | None, source: str | None, form: InputFormat) -> TextLabels | None:
    """What text lines are labelled with; None when the input holds events. Ends the command on a misuse."""
    if topic is None:
        if form is InputFormat.TEXT or source is not None:
            fail("lines of text need --topic NAME", EXIT_USAGE)
        return None
    if form not in (InputFormat.AUTO, InputFormat.TEXT):
        fail(f"--topic is for lines of text; {form} events name their own", EXIT_USAGE)
    if source is None:
        source = f"{socket.gethostname()}:{'stdin' if _is_stdin(file) else os.path.abspath(file)}"  # noqa: PTH100
    for option, name, bytes_max in (("--topic", topic, TOPIC_BYTES_MAX), ("--source", source, SOURCE_BYTES_MAX)):
        _check_name(option, name, bytes_max)
    return TextLabels(topic, source)


def _check_name(option: str, name: str, bytes_max: int) -> None:
    """The rules for names, before a million lines are refused one by one."""
    try:
        size_bytes = len(name.encode())
    except UnicodeEncodeError:
        fail(f"{option}: not UTF-8", EXIT_USAGE)
    if not 1 <= size_bytes <= bytes_max:
        fail(f"{option}: from 1 to {bytes_max} bytes", EXIT_USAGE)
    if name != name.strip() or any(ord(letter) < 0x20 or 0x7F <= ord(letter) < 0xA0 for letter in name):
        fail(f"{option}: no control characters, and no white space at its ends", EXIT_USAGE)


def _is_stdin(file: str) -> bool:
    return file == "-"


def _open(file: str) -> BinaryIO:
    """Unbuffered: what a pipe has is given at once, and no lock is held while it has nothing."""
    try:
        if _is_stdin(file):
            if sys.stdin is None:
                fail("standard input is closed")
            return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)
        return open(file, "rb", buffering=0)  # noqa: PTH123
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror}", EXIT_USAGE)


def _size_bytes(stream: BinaryIO) -> int | None:
    """The size of a file; None for a pipe."""
    try:
        return os.fstat(stream.fileno()).st_size or None
    except OSError:
        return None


def _announce_retry(error: SekaliError, wait_s: float) -> None:
    note(f"{error.detail}; trying again in {wait_s:.1f} s")
