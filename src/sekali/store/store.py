"""The store: one SQLite file that is the truth, and beside it a RocksDB index that can be rebuilt from it.

Contract
- **Atomicity.** `append` of a group stores all of its new events, counters and ledger entries, or none of them.
- **Durability.** When `append` (or `commit`) returns, the group survives kill -9 and power loss.
- **Uniqueness.** For each (topic, event_id) exactly one event is stored, the first in append order; within a group, the
  first in batch order. Every later one is a duplicate, or a conflict when its payload differs as a JSON value.
- **Order.** Offsets start at 1, increase in append order, are never reused and have no gap. Store time never decreases.
- **Ledger.** It has one entry for each duplicate that the counters count, a conflict where they count one.
- **Visibility.** What `commit` returned for is visible to every read that starts afterwards; nothing else is.
- **Idempotence.** Appending the same group again stores nothing and reports every event a duplicate.
- **Errors.** DiskFull, TooManyTopics, IndexRebuilding, Overloaded: nothing stored. OutcomeUnknown: the store has
  stopped, for good; reopening decides. StoreCorrupt: a checksum does not hold; nothing of that block is served.
  InternalError: the file cannot be read now.
- **Threads.** `prepare`, and every read, from any thread at once; `commit` from any thread, it takes its own turn.
- **Processes.** One. In a child made by fork every use raises StoreUnusable, and nothing is written or let go of.

The file tree tells the parts: `log` (SQLite) and `seen` (RocksDB); `decide` and `append` (what is new, and writing it);
`layout`, `tail`, `runs` and `compaction` (where events lie: young commits, and the runs they become); `block`, `codec`
(how they are written); `reader`, `window`; `ledger`, `topics`; `catchup`, `maintenance`, `backup`, `verify`; `guard`,
`disk` and `forks` (who may write, and when not).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final

import apsw

from sekali.errors import (
    DiskFull,
    Draining,
    EventNotFound,
    IndexRebuilding,
    OutcomeUnknown,
    Overloaded,
    SekaliError,
    StoreCorrupt,
    StoreUnusable,
    unexpected,
)
from sekali.event import (
    BatchOutcome,
    EventBatch,
    LedgerEntry,
    LedgerPage,
    LedgerQuery,
    ReadQuery,
    SeenAnswer,
    StoredEvents,
    StoreTotals,
    TopicFigures,
)
from sekali.settings import Settings
from sekali.store.append import Appender, PreparedGroup
from sekali.store.catchup import CatchUp, adopt
from sekali.store.compaction import RunSizes, leftovers
from sekali.store.disk import FreeSpace
from sekali.store.forks import call_in_children, keep_for_ever, left_to_parent, skip_native_exit
from sekali.store.guard import FileIdentity, ProcessGuard, fsync_directory
from sekali.store.layout import load_layout
from sekali.store.ledger import ledger_page, ledger_window
from sekali.store.log import Log
from sekali.store.maintenance import Maintenance
from sekali.store.reader import Reader
from sekali.store.runs import load_runs
from sekali.store.seen import SeenIndex, unpack_value

_CATCH_UP_AT_ONCE_EVENTS: Final = 100_000
"""A gap of this size is closed while opening; a larger one in the background, with publishing refused meanwhile."""

_log = logging.getLogger("sekali")

FailureListener = Callable[[SekaliError], None]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether events can be taken. `index_done` of `index_total` events are in the seen index."""

    refusal: SekaliError | None
    """What a publish would be refused with."""
    damage: str | None
    """What part of the file was found damaged first since the store was opened."""
    index_ready: bool
    index_done: int
    index_total: int


class Store:
    """See the module's docstring for the contract. `open` it; each `open` needs one `close`."""

    _open_stores: ClassVar[dict[str, Store]] = {}
    _open_stores_lock = threading.Lock()
    _was_opened: ClassVar[bool] = False
    """A store was opened in this process, or in one that it was forked from."""
    _was_forked: ClassVar[bool] = False
    """This process was forked from one in which a store had been opened."""

    @classmethod
    def open(cls, settings: Settings, sizes: RunSizes | None = None) -> Store:
        """Opens or creates the store at `settings.db_path`.

        Within one process a second opening of the same path shares the open store. Raises StoreUnusable, and
        StoreLocked when another process keeps it for longer than `predecessor_wait_s`.
        """
        if cls._was_forked:
            raise left_to_parent()
        path = _real_path(settings.db_file)
        with cls._open_stores_lock:
            cls._was_opened = True
            store = cls._open_stores.get(str(path))
            if store is None:
                store = cls._open_stores[str(path)] = cls(path, settings, sizes or RunSizes())
            store._openings += 1
            return store

    def __init__(self, path: Path, settings: Settings, sizes: RunSizes) -> None:
        self._path = path
        self._settings = settings
        self._openings = 0
        self._listeners: list[FailureListener] = []
        self._free_space = FreeSpace(path.parent, settings.disk_free_bytes_min, settings.disk_free_bytes_resume)
        self.failed: SekaliError | None = None
        """Why the store has stopped, for good. Reads go on."""
        self._damage: StoreCorrupt | None = None
        self._guard = ProcessGuard(path)
        self._guard.acquire(settings.predecessor_wait_s)
        with ExitStack() as undo:
            undo.callback(self._guard.release)
            try:
                self._open_parts(sizes, undo)
            except StoreUnusable:
                raise
            except SekaliError as error:
                raise StoreUnusable(f"{path}: {error.detail}") from error
            except (apsw.Error, OSError) as error:
                raise StoreUnusable(f"{path} cannot be opened: {error}") from error
            undo.pop_all()

    def _open_parts(self, sizes: RunSizes, undo: ExitStack) -> None:
        settings = self._settings
        self._log = Log(self._path)
        undo.callback(self._close_log)
        self._files = FileIdentity(self._path, self._log.wal_path)
        totals = self._log.read_totals()
        with self._log.snapshot() as connection:
            runs = load_runs(connection)
            self._topics, self._layout = load_layout(connection, totals, runs)
        with self._log.snapshot() as connection:
            steps = leftovers(connection, runs)
        for step in steps:  # only now: beside a run that is missing, its blocks would be taken for leftovers
            self._log.write(step)
        self._reader = Reader(self._log, self._topics, self._layout)
        index_path = self._path.with_name(self._path.name + ".seen")
        identity = self._log.identity
        self._seen = SeenIndex(index_path, identity.store_id, settings.index_memtable_bytes, self._fail)
        undo.callback(self._seen.close)
        self._appender = Appender(
            self._log, totals, self._topics, self._layout, self._seen, self._reader, settings.topics_max
        )
        self._maintenance = Maintenance(
            self._log,
            self._appender,
            self._topics,
            self._layout,
            self._seen,
            sizes,
            self._fail,
            self._refuse_to_write,
        )
        adopt(self._log, self._seen)
        self._catch_up: CatchUp | None = CatchUp(self._log, totals, runs, self._reader, self._seen)
        self._catching_up = threading.Thread(target=self._catch_up_aside, name="sekali-catch-up", daemon=True)
        is_large = self._catch_up.events_left > _CATCH_UP_AT_ONCE_EVENTS
        if is_large or not self._had_room_to_catch_up(self._catch_up):
            self._catching_up.start()

    def _close_log(self) -> None:
        """Where opening has failed: why is what counts."""
        with suppress(OutcomeUnknown):
            self._log.close()

    def _start(self) -> None:
        self._catch_up = None
        self._seen.start()
        self._maintenance.start()
        self._maintenance.notice()

    def _had_room_to_catch_up(self, catch_up: CatchUp) -> bool:
        """Catches up, unless stopped; False when the disk is full."""
        try:
            if catch_up.run():
                self._start()
        except DiskFull:
            return False
        return True

    def _catch_up_aside(self) -> None:
        catch_up = self._catch_up
        assert catch_up is not None, "started with something to catch up"
        try:
            while not self._had_room_to_catch_up(catch_up) and catch_up.wait_for_room():
                pass
        except SekaliError as error:
            self._fail(error)
        except BaseException as error:  # noqa: BLE001  (a thread must not end unheard)
            self._fail(unexpected("catching up", error))

    # Appending

    def prepare(self, batches: Sequence[EventBatch]) -> PreparedGroup:
        """All that can be done before the group's turn, from any thread. At least one event among the batches.

        Raises IndexRebuilding, Draining (the store has stopped), Overloaded (the index lags), DiskFull, StoreCorrupt.
        """
        refusal = self._why_unable()
        if refusal is not None:
            raise refusal
        try:
            with self._noticing_damage():
                return self._appender.prepare(batches)
        except OutcomeUnknown as error:
            self._fail(error)  # the seen index is damaged: it is made anew at the next start
            raise

    def commit(self, group: PreparedGroup, stamp_us: int) -> list[BatchOutcome]:
        """Writes a prepared group in its turn: one outcome per batch, in order.

        `stamp_us`: the command's time stamp; store time is the greater of it and the last one. Raises what `prepare`
        raises, TooManyTopics (nothing stored), OutcomeUnknown (the store has stopped).
        """
        with self._appender.turn:
            refusal = self.publish_refusal()
            if refusal is not None:
                raise refusal
            try:
                self._check_file()  # before too: frames written beside another file would be played into it
                outcomes = self._appender.commit(group, stamp_us, self._check_file)
            except OutcomeUnknown as error:
                self._fail(error)
                raise
            except SekaliError:
                raise  # said before anything was written
            except BaseException as error:
                unknown = unexpected("a commit", error)
                self._fail(unknown)
                raise unknown from error
        self._maintenance.notice()
        return outcomes

    def append(self, batches: Sequence[EventBatch], stamp_us: int) -> list[BatchOutcome]:
        """`prepare` and `commit`."""
        if not any(len(batch) for batch in batches):
            return [BatchOutcome(()) for _ in batches]
        return self.commit(self.prepare(batches), stamp_us)

    def _refuse_when_stopped(self) -> None:
        if self.failed is not None:
            raise Draining("The store has stopped after an error; the server is shutting down.", retry_after_s=5)

    def _refuse_to_write(self) -> None:
        """For what is written beside commits. Raises Draining, OutcomeUnknown."""
        self._refuse_when_stopped()
        self._check_file()

    def publish_refusal(self) -> SekaliError | None:
        """What a group that came now would be refused with; None when it would be taken."""
        return self._why_unable() or self._free_space.refusal()

    def _why_unable(self) -> SekaliError | None:
        if self.failed is not None:
            return Draining("The store has stopped after an error; the server is shutting down.", retry_after_s=5)
        if self._seen.disk_is_full:
            return DiskFull(
                "The disk of the seen index is full. Nothing is stored until there is room.", retry_after_s=5
            )
        catch_up = self._catch_up
        if catch_up is not None:
            return _index_rebuilding(catch_up)
        behind = self._seen.unwritten_keys
        if behind > self._settings.unindexed_events_max:
            return Overloaded(
                f"The seen index is {behind} events behind. Nothing is stored until it has caught up.", retry_after_s=1
            )
        return None

    def _check_file(self) -> None:
        """Before a group is answered. Raises OutcomeUnknown."""
        if self.failed is not None:
            raise OutcomeUnknown(f"The store has failed beside the commit. {self.failed.detail}", retry_after_s=5)
        if not self._files.still_holds():
            raise OutcomeUnknown(
                f"{self._path} or its -wal file was moved, replaced or deleted while the server ran; "
                "what it stored last may be lost.",
                retry_after_s=5,
            )

    def _fail(self, error: SekaliError) -> None:
        """Stops writing, for good, and tells the listeners once."""
        if self.failed is None:
            self.failed = error
            for listener in list(self._listeners):
                listener(error)

    def add_failure_listener(self, listener: FailureListener) -> None:
        """`listener` is called once, from any thread, when the store stops after an error."""
        self._listeners.append(listener)

    def remove_failure_listener(self, listener: FailureListener) -> None:
        self._listeners.remove(listener)

    # Reading

    def read(self, query: ReadQuery) -> Iterator[StoredEvents]:
        """Runs of matching events up to the log's end as it is now; some may be empty. Raises StoreCorrupt.

        Holds no transaction between two runs. One thread at a time may drive it; `close` it to stop early.
        """
        end = self._appender.totals.last_offset  # as it is now, not when the first run is asked for
        return self._read(query, end)

    def _read(self, query: ReadQuery, end: int) -> Iterator[StoredEvents]:
        with self._noticing_damage():
            yield from self._reader.read(query, end)

    def event(self, topic: str, event_id: str) -> StoredEvents:
        """The one event with that key. Raises EventNotFound, IndexRebuilding, StoreCorrupt."""
        answer = self.seen([(topic, event_id)])[0]
        topic_id = self._topics.ids.get(topic)
        if not answer.seen or topic_id is None:
            raise EventNotFound("No event with this topic and event_id was ever stored.")
        with self._noticing_damage():
            return self._reader.event_at(topic_id, answer.offset)

    def seen(self, keys: Sequence[tuple[str, str]]) -> list[SeenAnswer]:
        """For each (topic, event_id) whether it is stored, and where. Raises IndexRebuilding."""
        catch_up = self._catch_up
        if catch_up is not None:
            raise _index_rebuilding(catch_up)
        digests = self._appender.digester().digests([key[0] for key in keys], [key[1] for key in keys])
        found, _ = self._seen.find(digests)
        return [
            SeenAnswer(True, unpack_value(found[digest])[0]) if digest in found else SeenAnswer(False)
            for digest in digests
        ]

    def totals(self) -> StoreTotals:
        totals = self._appender.totals
        return StoreTotals(
            unique=totals.events,
            duplicates=totals.duplicates,
            conflicts=totals.conflicts,
            topics=len(self._topics),
            last_offset=totals.last_offset,
            last_commit=totals.commit_no,
            store_time_us=totals.store_time_us,
        )

    def topic_figures(self, after: str = "", limit: int = 1000) -> list[TopicFigures]:
        """Figures of the topics after name `after`, sorted by name in UTF-8 byte order."""
        return self._topics.figures(after, limit)

    def topic_names(self, limit: int) -> list[str]:
        """The first names, sorted in UTF-8 byte order."""
        return self._topics.names(limit)

    def ledger(self, query: LedgerQuery) -> LedgerPage:
        """A page of what was refused as known already. Bounded work, so it may end early. Raises StoreCorrupt."""
        totals = self._appender.totals
        with self._noticing_damage():
            with self._log.snapshot() as connection:
                window = ledger_window(connection, query, totals)
            page = ledger_page(window, query)
            return self._with_event_ids(page) if query.with_event_ids else page

    def _with_event_ids(self, page: LedgerPage) -> LedgerPage:
        """The same page with event ids, as far as the bound on looking them up allows."""
        topic_ids = self._topics.ids
        found = self._reader.event_ids_at((topic_ids[each.topic], each.offset) for each in page.entries if each.offset)
        entries: list[LedgerEntry] = []
        for entry in page.entries:
            if entry.offset and entry.offset not in found:
                return LedgerPage(entries, entry.at)
            entries.append(replace(entry, event_id=found.get(entry.offset)))
        return LedgerPage(entries, page.following)

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        """What is found damaged inside is told by `readiness` from then on."""
        try:
            yield
        except StoreCorrupt as error:
            if self._damage is None:
                self._damage = error
                _log.critical("The store is damaged: %s", error.detail)
            raise

    @property
    def last_offset(self) -> int:
        return self._appender.totals.last_offset

    @property
    def blocks_read(self) -> int:
        """Blocks decoded by reads since opening."""
        return self._reader.blocks_read

    def readiness(self) -> Readiness:
        total = self._appender.totals.last_offset
        catch_up = self._catch_up
        return Readiness(
            refusal=self.publish_refusal(),
            damage=None if self._damage is None else self._damage.detail,
            index_ready=catch_up is None,
            index_done=total if catch_up is None else catch_up.done_offset,
            index_total=total,
        )

    def compact(self) -> bool:
        """Makes one run of the tail now, if one is due; whether it did. Otherwise done in the background."""
        return self._maintenance.compact()

    def close(self) -> None:
        """Ends one opening; the last one makes the index durable and lets go of the files."""
        with Store._open_stores_lock:
            self._openings -= 1
            if self._openings > 0 or Store._open_stores.get(str(self._path)) is not self:
                return
            del Store._open_stores[str(self._path)]
            catch_up = self._catch_up
            if catch_up is not None:
                catch_up.stop()
                self._catching_up.join()
            self._maintenance.close()
            with self._appender.turn:
                is_sound = self.failed is None
                self.failed = self.failed or Draining("The store is closed.")
                with ExitStack() as closing:  # whatever one of them raises, the others are let go of
                    closing.callback(self._guard.release)
                    closing.callback(self._log.close, keeps_wal=not is_sound)
                    closing.callback(self._seen.close)


class _LeftToParent(Store):
    """What an open store becomes in a forked child: it can be closed, which does nothing; all else is refused."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("close", "remove_failure_listener") or name.startswith("__"):
            return super().__getattribute__(name)
        raise left_to_parent()

    def close(self) -> None:
        """Nothing: the parent closes it."""

    def remove_failure_listener(self, listener: FailureListener) -> None:
        """Nothing: none is called any more."""


def _leave_all_to_parent() -> None:
    """In a forked child. Locks may be held by threads that are the parent's, so none is taken."""
    if not Store._was_opened:
        return
    Store._was_forked = True
    for store in Store._open_stores.values():
        keep_for_ever(store)
        store._log.leave_to_parent()
        store.__class__ = _LeftToParent
    skip_native_exit()


call_in_children(_leave_all_to_parent)


def _index_rebuilding(catch_up: CatchUp) -> IndexRebuilding:
    return IndexRebuilding(
        f"The seen index is being rebuilt: {catch_up.done_offset} of {catch_up.total_offset} events. "
        "Nothing is stored until it is complete; reading works meanwhile.",
        retry_after_s=max(1, catch_up.events_left // 500_000),
    )


def _real_path(path: Path) -> Path:
    """The file behind the name, its folders made. Raises StoreUnusable."""
    try:
        made = [folder for folder in path.absolute().parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in made:
            fsync_directory(folder.parent)
        real = path.resolve()
        if real.is_dir():
            raise StoreUnusable(f"DB_PATH={path} is a folder; it must name a file, such as {path / 'store.db'}.")
        if real.exists() and not real.is_file():
            raise StoreUnusable(f"DB_PATH={path} is not a regular file.")
    except OSError as error:
        raise StoreUnusable(f"The folder of DB_PATH={path} cannot be made or read: {error}") from error
    return real
