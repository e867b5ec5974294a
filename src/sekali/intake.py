"""The intake: the bounded queue and the group commit between HTTP and the store.

**Natural batching.** A worker takes whatever is waiting and has it committed; what arrives meanwhile is the next group.
There is no timer, so a quiet server answers at once. A request never spans two groups.

**Fairness.** Requests are short or long. Short ones share a group, first come, first served. A long one forms a group
of its own; short ones that wait go first, then a long one has its turn, and so on, so neither lane starves. One worker
is always left to the short lane (where there are two): a long batch holds single publishes back for no longer than its
own commit, since only the commit is exclusive. A second group of short ones is begun beside another only when a full
one waits, or the other takes long: what waits otherwise becomes one larger group, which costs less than two.

**Order.** Promised is: a request that is sent after another one was answered gets the later offsets. For requests in
flight at the same time none is promised, neither by HTTP nor here: whichever group reaches the store's commit first is
first. That suffices, because a sender who cares for order waits for the answer, and every group is decided by the
store at its commit, from what is committed by then.

**Bounds.** Events and body bytes admitted and not yet answered. Beyond them a request is refused at once (Overloaded);
but a request that finds the intake empty is admitted whatever its size.

Not bound to an event loop: `publish` may be awaited on several at once, each waiter is resolved by its own loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from sekali.errors import Draining, OutcomeUnknown, Overloaded, RequestRefused, SekaliError, StoreCorrupt
from sekali.event import BatchOutcome, EventBatch
from sekali.settings import Settings

if TYPE_CHECKING:
    from sekali.store.store import Store

LONG_REQUEST_EVENTS_MIN: Final = 2_001
LONG_REQUEST_BYTES_MIN: Final = 2 * 1024 * 1024
"""From either on a request is long."""
OVERLAP_EVENTS_MIN: Final = 3_000
"""So many waiting events of short requests are prepared beside the commit of others. Where a sync takes 20 ms, batches
of 1,000 from 8 connections reach 0.71 of their rate on a fast disk; with 1,000 here, and so smaller groups, 0.50."""
OVERLAP_AFTER_S: Final = 0.05
"""A group that takes longer (it reads what it repeats, or waits for a slow disk) does not hold up who comes then."""
RETRY_AFTER_S: Final = 1

_log = logging.getLogger("sekali")


def wall_clock_us() -> int:
    """Microseconds since 1970-01-01 UTC, as the machine believes. The store makes it monotone."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Published:
    """`queued`: events in the intake once this request had joined it, its own included."""

    outcome: BatchOutcome
    queued: int


@dataclass(slots=True, eq=False)
class _Ticket:
    """A request in the intake, from admission to its answer."""

    batch: EventBatch
    loop: asyncio.AbstractEventLoop | None
    """The waiter's; None when a thread waits."""
    future: asyncio.Future[BatchOutcome] | concurrent.futures.Future[BatchOutcome]
    events: int
    body_bytes: int
    answer: BatchOutcome | SekaliError | None = None


@dataclass(slots=True)
class _Group:
    tickets: list[_Ticket] = field(default_factory=list)
    is_long: bool = False


class Intake:
    """Admits batches, groups them, has the store commit them, and answers. One per open hub; not restartable."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock_us: Callable[[], int] = wall_clock_us,
        on_impossible: Callable[[BaseException], None] | None = None,
    ) -> None:
        """`on_impossible` is called once, on a worker's thread, when something other than a SekaliError came out of
        the store: the intake has stopped by then, and the process should."""
        self._store = store
        self._clock_us = clock_us
        self._on_impossible = on_impossible
        self._events_max = settings.intake_events_max
        self._bytes_max = settings.intake_bytes_max
        self._group_events_max = settings.group_events_max
        self._group_bytes_max = settings.group_bytes_max
        self._overlap_events_min = min(OVERLAP_EVENTS_MIN, settings.group_events_max)
        self._long_groups_max = max(1, settings.consumer_workers - 1)

        self._process = os.getpid()
        self._lock = threading.Lock()
        # All below is guarded by the lock.
        self._short: deque[_Ticket] = deque()
        self._long: deque[_Ticket] = deque()
        self._depth_events = 0
        self._depth_bytes = 0
        self._depth_requests = 0
        self._long_groups = 0
        self._short_groups = 0
        self._short_events = self._short_bytes = 0
        """Of the requests that wait in the short lane."""
        self._short_since_s = 0.0
        """When the last group of short requests was begun."""
        self._long_is_next = False
        self._idle_workers = 0
        self._closed: Draining | None = None
        """What a request is refused with since the intake was closed."""
        self._is_broken = False
        # One token wakes one idle worker.
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"sekali-intake-{i}", daemon=True)
            for i in range(settings.consumer_workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def depth_events(self) -> int:
        """Events admitted and not yet answered."""
        return self._depth_events

    @property
    def depth_bytes(self) -> int:
        """Body bytes admitted and not yet answered."""
        return self._depth_bytes

    @property
    def has_room(self) -> bool:
        return self._depth_events < self._events_max and self._depth_bytes < self._bytes_max

    async def publish(self, batch: EventBatch) -> Published:
        """Store a batch, durably, and say what became of it. From any event loop.

        Raises Overloaded, Draining, IndexRebuilding, DiskFull, TooManyTopics, StoreCorrupt: nothing was stored;
        OutcomeUnknown: perhaps it was. If the waiter is cancelled, the batch is stored all the same.
        """
        if not batch.event_ids:
            return Published(BatchOutcome(()), 0)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[BatchOutcome] = loop.create_future()
        queued = self._admit(_Ticket(batch, loop, future, len(batch.event_ids), batch.body_bytes))
        return Published(await future, queued)

    def publish_now(self, batch: EventBatch) -> Published:
        """`publish` for a thread: blocks until the answer."""
        if not batch.event_ids:
            return Published(BatchOutcome(()), 0)
        future: concurrent.futures.Future[BatchOutcome] = concurrent.futures.Future()
        queued = self._admit(_Ticket(batch, None, future, len(batch.event_ids), batch.body_bytes))
        return Published(future.result(), queued)

    def drain(self, deadline_s: float) -> bool:
        """Refuse what comes, finish what was admitted, stop the threads. False if that took longer than `deadline_s`:
        what was not begun by then is answered with Draining, what was begun is left to its thread."""
        with self._lock:
            if self._closed is None:
                self._closed = Draining("The server is shutting down. Send again.", retry_after_s=RETRY_AFTER_S)
            for _ in self._threads:
                self._bell.put(None)
        cut_at_s = time.monotonic() + deadline_s
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(max(0.0, cut_at_s - time.monotonic()))
        self._refuse_waiting()
        return not any(thread.is_alive() for thread in self._threads)

    def _admit(self, ticket: _Ticket) -> int:
        """Join the queue; events in the intake, this request's own included."""
        if os.getpid() != self._process:  # the lock, and the workers, are the parent's
            raise Draining("This process was forked from the server's. Send to that one.", retry_after_s=RETRY_AFTER_S)
        with self._lock:
            if self._closed is not None:
                raise _fresh(self._closed)
            events = self._depth_events + ticket.events
            body_bytes = self._depth_bytes + ticket.body_bytes
            if self._depth_requests and (events > self._events_max or body_bytes > self._bytes_max):
                raise Overloaded(
                    "The intake is full. Wait as Retry-After says, then send the same events again.",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._depth_events = events
            self._depth_bytes = body_bytes
            self._depth_requests += 1
            is_long = ticket.events >= LONG_REQUEST_EVENTS_MIN or ticket.body_bytes >= LONG_REQUEST_BYTES_MIN
            if is_long:
                self._long.append(ticket)
            else:
                self._short.append(ticket)
                self._short_events += ticket.events
                self._short_bytes += ticket.body_bytes
            self._wake_a_worker()
            return events

    def _wake_a_worker(self) -> None:
        """Where one is idle and may take something. A worker that is done looks for more by itself."""
        if self._idle_workers and (self._may_take_short or self._may_take_long):
            self._idle_workers -= 1
            self._bell.put(None)

    @property
    def _may_take_short(self) -> bool:
        if not self._short:
            return False
        return (
            not self._short_groups
            or self._short_events >= self._overlap_events_min
            or self._short_bytes >= self._group_bytes_max
            or time.monotonic() >= self._short_since_s + OVERLAP_AFTER_S
        )

    @property
    def _may_take_long(self) -> bool:
        return bool(self._long) and self._long_groups < self._long_groups_max

    # Workers

    def _work(self) -> None:
        while (group := self._next_group()) is not None:
            try:
                self._append(group.tickets)
            except BaseException as error:  # noqa: BLE001  (nobody may be left waiting)
                self._stop(error)
            finally:
                self._answer(group)

    def _next_group(self) -> _Group | None:
        """Blocks until there is one. None: the intake was closed, and nothing is left for this worker."""
        while True:
            with self._lock:
                group = self._take_group()
                if group is not None:
                    self._wake_a_worker()
                    return group
                if self._closed is not None:
                    return None
                self._idle_workers += 1
            self._bell.get()

    def _take_group(self) -> _Group | None:
        may_take_short = self._may_take_short
        if self._may_take_long and (self._long_is_next or not may_take_short):
            self._long_groups += 1
            self._long_is_next = False
            return _Group([self._long.popleft()], is_long=True)
        if not may_take_short:
            return None
        self._short_groups += 1
        self._long_is_next = True
        first = self._short.popleft()
        tickets, events, body_bytes = [first], first.events, first.body_bytes
        while self._short:
            ticket = self._short[0]
            events += ticket.events
            body_bytes += ticket.body_bytes
            if events > self._group_events_max or body_bytes > self._group_bytes_max:
                break
            tickets.append(self._short.popleft())
        for ticket in tickets:
            self._short_events -= ticket.events
            self._short_bytes -= ticket.body_bytes
        self._short_since_s = time.monotonic()
        return _Group(tickets)

    def _append(self, tickets: Sequence[_Ticket]) -> None:
        """Commit and note each ticket's answer. When the store refuses a group for what is in it, the group is halved
        until only those requests are refused that have to be: a refusal stores nothing."""
        try:
            group = self._store.prepare([ticket.batch for ticket in tickets])
            outcomes = self._store.commit(group, self._clock_us())
        except (RequestRefused, StoreCorrupt) as error:
            if len(tickets) > 1:
                middle = len(tickets) // 2
                self._append(tickets[:middle])
                self._append(tickets[middle:])
            else:
                tickets[0].answer = error
        except SekaliError as error:
            for ticket in tickets:
                ticket.answer = _fresh(error)
        else:
            for ticket, outcome in zip(tickets, outcomes, strict=True):
                ticket.answer = outcome

    def _answer(self, group: _Group) -> None:
        """Leave the queue, then wake the waiters."""
        with self._lock:
            self._leave(group.tickets)
            if group.is_long:
                self._long_groups -= 1
            else:
                self._short_groups -= 1
        _wake(group.tickets)

    def _leave(self, tickets: Sequence[_Ticket]) -> None:
        self._depth_requests -= len(tickets)
        for ticket in tickets:
            self._depth_events -= ticket.events
            self._depth_bytes -= ticket.body_bytes

    def _stop(self, error: BaseException) -> None:
        """The impossible happened: nobody knows what state the store is in, so nothing goes on. The requests in hand
        are answered with OutcomeUnknown, those that wait with Draining: of them nothing was stored."""
        _log.critical("The intake stops: unexpected %s", type(error).__name__, exc_info=error)
        with self._lock:
            first, self._is_broken = not self._is_broken, True
            self._closed = Draining(
                "The server met an internal error and is stopping. Send again once it is back.",
                retry_after_s=RETRY_AFTER_S,
            )
        self._refuse_waiting()
        if first and self._on_impossible is not None:
            self._on_impossible(error)

    def _refuse_waiting(self) -> None:
        """Answer everything not yet begun with why the intake is closed."""
        with self._lock:
            assert self._closed is not None
            waiting = [*self._short, *self._long]
            self._short.clear()
            self._long.clear()
            self._short_events = self._short_bytes = 0
            self._leave(waiting)
        for ticket in waiting:
            ticket.answer = _fresh(self._closed)
        _wake(waiting)


def _fresh(error: SekaliError) -> SekaliError:
    """An own instance for each waiter: one that is raised at several places would mix their tracebacks."""
    fresh = type(error)(
        error.detail,
        violations=error.violations,
        violations_total=error.violations_total,
        retry_after_s=error.retry_after_s,
    )
    fresh.__cause__ = error.__cause__
    return fresh


def _wake(tickets: Sequence[_Ticket]) -> None:
    """One call per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[_Ticket]] = {}
    for ticket in tickets:
        by_loop.setdefault(ticket.loop, []).append(ticket)
    for loop, waiting in by_loop.items():
        if loop is None:
            _resolve(waiting)
            continue
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:
            # A loop that was closed has no waiters any more. The events are stored all the same.
            if not loop.is_closed():
                raise


def _resolve(tickets: Sequence[_Ticket]) -> None:
    """On the waiters' own event loop. A waiter that was cancelled wants no answer."""
    for ticket in tickets:
        future, answer = ticket.future, ticket.answer
        if future.done():
            continue
        if isinstance(answer, BatchOutcome):
            future.set_result(answer)
        else:
            future.set_exception(answer if answer is not None else _outcome_unknown())


def _outcome_unknown() -> OutcomeUnknown:
    return OutcomeUnknown(
        "The server met an internal error and is stopping. Send the same events again once it is back.",
        retry_after_s=RETRY_AFTER_S,
    )
