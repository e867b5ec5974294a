"""The hub: the only door to an open store. HTTP and the command line talk to this and to nothing below it.

It is open from its making until `close`. It is *draining* from `start_draining` on (a signal, or a failure): new work
is refused with Draining, what was admitted is finished, streams are to end by `cut_at_s`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sekali.errors import Draining, InternalError, SekaliError
from sekali.event import EventBatch, LedgerPage, LedgerQuery, ReadQuery, SeenAnswer, StoredEvents, TopicFigures
from sekali.intake import Intake, Published, wall_clock_us
from sekali.settings import Settings
from sekali.store.store import Store

STATS_TOPICS_MAX: Final = 1_000
DRAINING_RETRY_AFTER_S: Final = 2

_log = logging.getLogger("sekali")


@dataclass(frozen=True, slots=True)
class HubReadiness:
    """Whether a publish would be taken now, and if not, every reason why, in plain words.

    `index_done` of `index_total` stored keys are in the seen index. `damage`: what a read found damaged.
    """

    reasons: tuple[str, ...]
    index_done: int
    index_total: int
    damage: str | None = None

    @property
    def ready(self) -> bool:
        return not self.reasons


class Hub:
    """An open store and its intake. Thread safe. `publish` is for event loops, all other methods block briefly."""

    def __init__(self, store: Store, settings: Settings, *, clock_us: Callable[[], int] = wall_clock_us) -> None:
        self.settings: Final = settings
        self.failed: SekaliError | None = None
        """Why this hub is of no use any more: the store has stopped, or the intake met the impossible."""
        self.on_failure: Callable[[SekaliError], None] | None = None
        """Called once, from any thread, when `failed` is set."""
        self._store = store
        self._opened_at_s = time.monotonic()
        self._draining_since_s: float | None = None
        self._failure_lock = threading.Lock()
        self._close_lock = threading.Lock()
        self._is_closed = False
        self._intake = Intake(store, settings, clock_us=clock_us, on_impossible=self._intake_stopped)
        store.add_failure_listener(self._store_failed)
        self._intake.start()
        if store.failed is not None:
            self._store_failed(store.failed)

    @classmethod
    def open(cls, settings: Settings, *, clock_us: Callable[[], int] = wall_clock_us) -> Hub:
        """Blocks until the store is open. Raises StoreUnusable, StoreLocked."""
        return cls(Store.open(settings), settings, clock_us=clock_us)

    def close(self) -> bool:
        """Finish what was admitted, for at most `drain_s`, and let go of the store. Idempotent.

        False: a thread is still in the store, so it was left open; everything answered for is on disk all the same.
        """
        self.start_draining()
        with self._close_lock:
            if self._is_closed:
                return True
            if not self._intake.drain(self.settings.drain_s):
                return False
            self._store.remove_failure_listener(self._store_failed)
            self._store.close()
            self._is_closed = True
            return True

    # Draining

    @property
    def draining(self) -> bool:
        return self._draining_since_s is not None

    @property
    def cut_at_s(self) -> float | None:
        """While draining: the `time.monotonic()` at which streams that are still open are to be cut."""
        since = self._draining_since_s
        return None if since is None else since + self.settings.drain_s

    def start_draining(self) -> None:
        """Takes no lock: a signal handler calls this, in the middle of anything."""
        if self._draining_since_s is None:
            self._draining_since_s = time.monotonic()

    def refusal(self) -> Draining:
        """What new work is refused with while draining."""
        if self.failed is not None:
            return Draining(
                f"The store has stopped ({self.failed.title}); this request was not carried out. "
                "Send it again once the server was restarted.",
                retry_after_s=DRAINING_RETRY_AFTER_S,
            )
        return Draining(
            "The server is shutting down; this request was not carried out. Send it again.",
            retry_after_s=DRAINING_RETRY_AFTER_S,
        )

    # Writing

    def publish(self, batch: EventBatch) -> Coroutine[Any, Any, Published]:
        """To be awaited. See `Intake.publish`."""
        if self._draining_since_s is not None:
            raise self.refusal()
        return self._intake.publish(batch)

    def publish_now(self, batch: EventBatch) -> Published:
        """`publish` for a thread."""
        if self._draining_since_s is not None:
            raise self.refusal()
        return self._intake.publish_now(batch)

    # Reading

    def read(self, query: ReadQuery) -> Iterator[StoredEvents]:
        """Runs of stored events, see `Store.read`."""
        return self._store.read(query)

    def event(self, topic: str, event_id: str) -> StoredEvents:
        """One event. Raises EventNotFound, PayloadGone, IndexRebuilding."""
        return self._store.event(topic, event_id)

    def seen(self, keys: Sequence[tuple[str, str]]) -> list[SeenAnswer]:
        """For each (topic, event_id), in order, whether it is stored. Raises IndexRebuilding."""
        return self._store.seen(keys)

    def topics(self, after: str = "", limit: int = 1_000) -> list[TopicFigures]:
        """Figures per topic, by name, those after `after` (exclusive)."""
        return self._store.topic_figures(after, limit)

    def ledger(self, query: LedgerQuery) -> LedgerPage:
        """A page of what was refused as known already, see `Store.ledger`."""
        return self._store.ledger(query)

    @property
    def last_offset(self) -> int:
        return self._store.last_offset

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._opened_at_s

    def stats(self) -> dict[str, Any]:
        """The eight fields of the first version, then more. Costs the same at any size of the store."""
        totals = self._store.totals()
        readiness = self._store.readiness()
        return {
            "received": totals.received,
            "unique_processed": totals.unique,
            "duplicate_dropped": totals.duplicates,
            "topics": self._store.topic_names(STATS_TOPICS_MAX),
            "uptime_seconds": round(self.uptime_s, 3),
            "queue_depth": self._intake.depth_events,
            "workers": self.settings.consumer_workers,
            "db_path": self.settings.db_path,
            "conflicts": totals.conflicts,
            "topics_total": totals.topics,
            "last_offset": totals.last_offset,
            "commits": totals.last_commit,
            "intake": {
                "events": self._intake.depth_events,
                "events_max": self.settings.intake_events_max,
                "bytes": self._intake.depth_bytes,
                "bytes_max": self.settings.intake_bytes_max,
            },
            "index": {
                "ready": readiness.index_ready,
                "done": readiness.index_done,
                "total": readiness.index_total,
            },
        }

    def readiness(self) -> HubReadiness:
        store = self._store.readiness()
        reasons = []
        if self.failed is not None:
            reasons.append(f"the store has stopped: {self.failed.detail}")
        elif self.draining:
            reasons.append("the server is shutting down")
        if store.refusal is not None and self.failed is None:
            reasons.append(store.refusal.detail.removesuffix("."))
        if not self._intake.has_room:
            reasons.append("the intake is full")
        return HubReadiness(tuple(reasons), store.index_done, store.index_total, store.damage)

    # Failure

    def _store_failed(self, error: SekaliError) -> None:
        with self._failure_lock:
            if self.failed is not None:
                return
            self.failed = error
        self.start_draining()
        _log.critical("The store has stopped: %s", error.detail)
        if self.on_failure is not None:
            self.on_failure(error)

    def _intake_stopped(self, error: BaseException) -> None:
        failure = InternalError(f"The intake met an unexpected {type(error).__name__}.")
        failure.__cause__ = error
        self._store_failed(failure)
