"""`sekali demo`: kill -9 in the middle of publishing, everything sent twice, nothing lost, nothing doubled."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.table import Table
from rich.text import Text

import sekali
from sekali.cli.terminal import EXIT_INTERRUPTED, fail, stdout
from sekali.client import ONCE, Client, RetryPolicy
from sekali.errors import SekaliError

SENDERS: Final = 4
BATCH_EVENTS: Final = 20
START_S_MAX: Final = 60.0
STALL_S_MAX: Final = 120.0
TOPICS: Final = ("demo.orders", "demo.payments", "demo.shipping")

Event = dict[str, Any]


def demo(
    events: Annotated[int, typer.Option(min=100, max=1_000_000, metavar="N", help="How many events to send.")] = 20_000,
    kills: Annotated[int, typer.Option(min=0, max=20, metavar="N", help="How often to kill the server.")] = 2,
    is_kept: Annotated[bool, typer.Option("--keep", help="Keep the store and the server's log.")] = False,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Of the order in which things are sent.")] = None,
) -> None:
    """Kill a server in the middle, send everything twice, and count.

    Starts a server of its own on a spare port with a temporary store;
    nothing else is touched.

    Exit status: 1 when an event is lost or doubled.

    Example:

    $ sekali demo --events 2000 --kills 1
    """
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    folder = Path(tempfile.mkdtemp(prefix="sekali-demo-"))
    is_kept_for_sure = is_kept
    try:
        with ended_by_signals():
            check = Show(folder, seed).run(events, kills)
        is_kept_for_sure |= not check.is_clean
        if not check.is_clean:
            fail(f"events were lost or doubled; the store is kept in {folder}")
    except SekaliError as error:
        is_kept_for_sure = True
        fail(f"{error.detail}; the server's log is {folder / 'server.log'}")
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        if is_kept_for_sure:
            stdout().print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and a closed terminal end the block as Ctrl-C does, so that the server is not left behind.

    Only the first of them counts: the clean-up that it sets off is short, and is not to be interrupted.
    """
    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]

    def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = [(number, signal.signal(number, interrupt)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in previous:
            signal.signal(number, handler)


class ServerProcess:
    """`sekali serve` in a process of its own. Only this process is ever ended."""

    def __init__(self, folder: Path) -> None:
        self.port = _spare_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._db = folder / "store.db"
        self._log = folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Seconds until it answers. Ends the command, with the server's own words, when it does not."""
        command = [sys.executable, "-m", "sekali", "serve", "--port", str(self.port), "--db", str(self._db)]
        # The package as it is imported here, installed or not.
        path = [str(Path(sekali.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        started_s = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        with Client(self.url, retry=ONCE, timeout_s=5) as client:
            while True:
                try:
                    client.check()
                except SekaliError:
                    self._wait_a_little(started_s + START_S_MAX)
                else:
                    return time.monotonic() - started_s

    def kill(self) -> None:
        """SIGKILL (on Windows TerminateProcess): nothing is flushed, no handler runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it if it still runs, gently first."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _wait_a_little(self, deadline_s: float) -> None:
        assert self._process is not None
        if time.monotonic() > deadline_s:
            self._fail_to_start(f"no answer after {START_S_MAX:.0f} s")
        try:
            code = self._process.wait(0.05)
        except subprocess.TimeoutExpired:
            return
        self._fail_to_start(f"it ended with {code}")

    def _fail_to_start(self, reason: str) -> NoReturn:
        fail(f"the server did not start: {reason}\n{self._log.read_text(errors='replace')[-2000:]}")


class SenderStoppedError(Exception):
    """A sender is to end while it waits to try again."""


class Progress:
    """How far the senders are, shared by their threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.acknowledged = 0
        """Events in requests that were answered, repeats included."""
        self.attempted = 0
        """Events in all requests, answered or not."""
        self.unanswered_requests = 0
        self.receipts: Counter[str] = Counter()
        self.failures: list[BaseException] = []

    def note_lost_request(self) -> None:
        with self._changed:
            self.unanswered_requests += 1

    def note_answer(self, receipts: Counter[str], events: int, tries: int) -> None:
        with self._changed:
            self.acknowledged += events
            self.attempted += events * tries
            self.receipts += receipts
            self._changed.notify_all()

    def note_failure(self, error: BaseException) -> None:
        with self._changed:
            self.failures.append(error)
            self._changed.notify_all()

    def wait_acknowledged(self, events: int) -> int:
        """Until so many are; returns how many. Raises what a sender failed with."""
        with self._changed:
            done = self._changed.wait_for(lambda: self.acknowledged >= events or self.failures, STALL_S_MAX)
            if self.failures:
                raise self.failures[0]
            assert done, "no sender has come any further"
            return self.acknowledged


@dataclass(slots=True)
class Check:
    """What was read back, against what was sent."""

    sent: int
    stored: int
    lost: int
    doubled: int
    foreign: int
    """Stored, but never sent, or with another payload."""
    conflicts: int
    received: int
    duplicates: int

    @property
    def is_clean(self) -> bool:
        wrong = self.lost or self.doubled or self.foreign or self.conflicts
        return not wrong and self.stored == self.sent and self.received == self.stored + self.duplicates


@dataclass(slots=True)
class Show:
    """The demonstration, told step by step."""

    folder: Path
    seed: int
    _step: int = 0
    _started_s: float = field(default_factory=time.monotonic)

    def run(self, count: int, kills: int) -> Check:
        events = make_events(count)
        server = ServerProcess(self.folder)
        try:
            self.tell(f"a server on {server.url}, its store in {self.folder}")
            self.add(f"up after {server.start():.1f} s")
            progress = Progress()
            self.tell(f"{SENDERS} senders publish {count:,} events, {BATCH_EVENTS} a request, and repeat what fails")
            with senders(server.url, events, progress, self.seed):
                for number in range(1, kills + 1):
                    reached = progress.wait_acknowledged(count * number // (kills + 1))
                    server.kill()
                    self.add(f"kill -9 when {reached:,} events were answered for", style="bold red")
                    self.add(f"started again, up after {server.start():.1f} s")
                progress.wait_acknowledged(count)
            self.add(f"all answered for; {progress.unanswered_requests:,} requests had to be repeated")
            self.tell("all of it again, in another order, as a sender does that is not sure")
            with senders(server.url, events, progress, self.seed + 1):
                progress.wait_acknowledged(2 * count)
            self.add(f"{progress.receipts['duplicate']:,} times the answer was: duplicate, already stored")
            self.tell("everything is read back and compared with what was sent")
            check = compare(server.url, events)
        except KeyboardInterrupt:
            server.kill()
            raise
        finally:
            server.stop()
        self.verdict(check, progress)
        return check

    def tell(self, text: str) -> None:
        self._step += 1
        stdout().print(Text.assemble((f"{self._step}  ", "bold cyan"), text))

    def add(self, text: str, style: str = "dim") -> None:
        stdout().print(Text(f"   {time.monotonic() - self._started_s:5.1f} s  {text}", style=style))

    def verdict(self, check: Check, progress: Progress) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_column(justify="right")
        table.add_column(style="dim")
        good = "bold green"
        rows = (
            ("sent", progress.attempted, "events in all requests, repeats included", ""),
            ("received", check.received, "the other requests found no server", ""),
            (
                "stored",
                check.stored,
                f"of {check.sent:,} different ones",
                good if check.stored == check.sent else "red",
            ),
            ("duplicates", check.duplicates, "dropped", ""),
            ("lost", check.lost, "", "red" if check.lost else good),
            ("doubled", check.doubled, "", "red" if check.doubled else good),
            ("altered", check.foreign, "", "red" if check.foreign else good),
            ("conflicts", check.conflicts, "", "red" if check.conflicts else good),
        )
        for name, number, remark, style in rows:
            table.add_row(f"   {name}", Text(f"{number:,}", style=style), remark)
        stdout().print(table)
        result = "nothing lost, nothing doubled" if check.is_clean else "NOT CLEAN"
        elapsed_s = time.monotonic() - self._started_s
        stdout().print(
            Text(f"{result} ({elapsed_s:.1f} s, seed {self.seed})", style=good if check.is_clean else "bold red")
        )


def make_events(count: int) -> list[Event]:
    now = datetime.now(UTC).isoformat()
    return [
        {
            "topic": TOPICS[number % len(TOPICS)],
            "event_id": f"e-{number:07d}",
            "timestamp": now,
            "source": f"demo-sender-{number % SENDERS}",
            "payload": {"number": number, "amount": f"{number % 997}.{number % 100:02d}", "note": "each exactly once"},
        }
        for number in range(count)
    ]


@contextmanager
def senders(url: str, events: Sequence[Event], progress: Progress, seed: int) -> Iterator[None]:
    """SENDERS threads that publish all events between them; all have ended when the block has."""
    order = random.Random(seed)  # noqa: S311 - an order, no secret
    batches = [events[start : start + BATCH_EVENTS] for start in range(0, len(events), BATCH_EVENTS)]
    order.shuffle(batches)
    stop = threading.Event()
    threads = [
        threading.Thread(target=_publish_all, args=(url, batches[number::SENDERS], progress, stop), daemon=True)
        for number in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _publish_all(url: str, batches: Sequence[Sequence[Event]], progress: Progress, stop: threading.Event) -> None:
    def sleep(wait_s: float) -> None:
        if stop.wait(wait_s):
            raise SenderStoppedError

    retry = RetryPolicy(
        give_up_after_s=60,
        first_wait_s=0.05,
        wait_s_max=0.5,
        sleep=sleep,
        on_retry=lambda _error, _wait_s: progress.note_lost_request(),
    )
    try:
        with Client(url, retry=retry, timeout_s=30) as client:
            for batch in batches:
                if stop.is_set():
                    return
                published = client.publish(batch)
                receipts = Counter(str(receipt.status) for receipt in published.receipts)
                progress.note_answer(receipts, len(batch), published.tries)
    except SenderStoppedError:
        return
    except Exception as error:  # noqa: BLE001 - raised again by wait_acknowledged, on the main thread
        progress.note_failure(error)


def compare(url: str, events: Sequence[Event]) -> Check:
    """Read the whole log, and hold it against `events`."""
    sent = {(event["topic"], event["event_id"]): event["payload"] for event in events}
    found: Counter[tuple[str, str]] = Counter()
    foreign = 0
    with Client(url) as client:
        for stored in client.events():
            key = (stored.topic, stored.event_id)
            found[key] += 1
            foreign += sent.get(key) != stored.payload
        figures = client.stats()
    return Check(
        sent=len(sent),
        stored=found.total(),
        lost=len(sent.keys() - found.keys()),
        doubled=sum(times - 1 for times in found.values()),
        foreign=foreign,
        conflicts=figures.conflicts,
        received=figures.received,
        duplicates=figures.duplicate_dropped,
    )


def _spare_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
