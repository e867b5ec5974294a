"""`sekali publish`: a file or a pipe to the server, exactly once however often it is run."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Sequence
from typing import Annotated, BinaryIO, Final

import typer

from sekali.cli import options
from sekali.cli.feed import Feed
from sekali.cli.inputs import EventInput, InputFormat, InputRefusedError, Item, TextLabels
from sekali.cli.outage import Outage
from sekali.cli.report import Report
from sekali.cli.sender import Sender
from sekali.cli.terminal import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail, note, stderr, stdout
from sekali.client import Published, Receipt, RetryPolicy
from sekali.errors import InvalidEvent, SekaliError
from sekali.settings import Settings
from sekali.wire.native import DecodeLimits, decode_publish

BATCH_BYTES_MAX: Final = 4 * 1024 * 1024


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
    complete_lines: Annotated[
        bool, typer.Option("--complete-lines", help="Leave out a last line that has no line end: it may still grow.")
    ] = False,
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
    if complete_lines and form is InputFormat.JSON:
        fail("--complete-lines is for lines; a JSON document has none", EXIT_USAGE)
    console = stderr()
    outage = Outage(console)
    with _open(file) as stream:
        events = EventInput(stream, form, labels, complete_lines=complete_lines)
        report = Report(events, console, _size_bytes(stream), complete_lines=complete_lines, is_quiet=is_quiet)
        if is_dry_run:
            _send_all(events, Sender(LocalCheck(), is_strict=is_strict), report, outage, batch, is_dry_run=True)
            return
        retry = RetryPolicy(give_up_after_s=retry_s, on_retry=outage.begin)
        with options.connect(url, retry) as client:
            _send_all(events, Sender(client, is_strict=is_strict), report, outage, batch, is_dry_run=False)


class LocalCheck:
    """Takes events as a server with default limits does, but stores nothing: what it accepts is called stored."""

    def __init__(self) -> None:
        settings = Settings.model_construct()  # the defaults: the environment here need not be the server's
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


def _send_all(
    events: EventInput, sender: Sender, report: Report, outage: Outage, batch_events_max: int, *, is_dry_run: bool
) -> None:
    """Send everything, and end with the summary and the exit status."""
    feed = Feed(events, batch_events_max=batch_events_max, batch_bytes_max=BATCH_BYTES_MAX)
    failure: str | None = None
    code = EXIT_FAILED
    try:
        with report.progress:
            for batch in feed.batches():
                outcome = sender.send(batch)
                outage.end()
                report.advance(sender.account, outcome.troubles)
                if outcome.must_stop:
                    break
    except KeyboardInterrupt:
        failure, code = "interrupted; sending the same input again is safe", EXIT_INTERRUPTED
    except (InputRefusedError, OSError) as error:
        failure = str(error)
    except SekaliError as error:
        failure = error.detail
    finally:
        feed.give_up()
    if places := report.troubled_places():
        note(places)
    if failure is None and (open_line := report.open_line()):
        note(open_line)
    if sender.account.read or failure is None:
        stdout().print(report.summary(sender.account, is_dry_run=is_dry_run))
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
    labels = TextLabels(topic, source)
    _check_names(labels)
    return labels


def _check_names(labels: TextLabels) -> None:
    """The rules for names, before a million lines are refused one by one. Ends the command when one is broken."""
    events = EventInput(io.BytesIO(b"x"), InputFormat.TEXT, labels)
    try:
        sample = [item.encoded for run in events.chunks() for item in run if isinstance(item, Item)]
        LocalCheck().publish_encoded(sample)
    except UnicodeEncodeError:
        fail("--topic and --source: not UTF-8", EXIT_USAGE)
    except InvalidEvent as error:
        violation = error.violations[0]
        fail(f"--{violation.pointer.rpartition('/')[2]}: {violation.detail}", EXIT_USAGE)


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
