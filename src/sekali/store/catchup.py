"""Bringing the seen index up to the log: after a kill, a deletion, a restored backup."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import apsw

from sekali.errors import DiskFull
from sekali.event import ReadQuery
from sekali.store.decide import Digester
from sekali.store.log import Log, Totals
from sekali.store.reader import Reader
from sekali.store.rows import value_of
from sekali.store.runs import Run
from sekali.store.seen import FULL_DISK_WAIT_S, Binding, Mark, SeenIndex, pack_value

_LOOK_UPS = (
    "SELECT chain FROM commits WHERE commit_no = ?",
    "SELECT chain FROM runs WHERE last_commit = ?",
    "SELECT chain FROM index_marks WHERE commit_no = ?",
)


def adopt(log: Log, seen: SeenIndex) -> None:
    """Takes up the index that was found if it is of this log's past; otherwise throws it away."""
    binding = seen.binding()
    if binding is None or not _is_of(log, seen, binding):
        seen.clear()
    else:
        seen.resume(binding)


def _is_of(log: Log, seen: SeenIndex, binding: Binding) -> bool:
    with log.snapshot() as connection:
        return (
            binding.store_id == seen.store_id and _holds(connection, binding.done) and _holds(connection, binding.upto)
        )


def _holds(connection: apsw.Connection, mark: Mark) -> bool:
    """Whether the log has exactly this commit."""
    if mark == Mark():
        return True
    return any(value_of(connection, sql, mark.commit_no) == mark.chain for sql in _LOOK_UPS)


class CatchUp:
    """Writes the keys of the events after the index's mark. Interrupted, it goes on from the last run it finished."""

    def __init__(self, log: Log, totals: Totals, runs: Sequence[Run], reader: Reader, seen: SeenIndex) -> None:
        self._log = log
        self._runs = runs
        self._reader = reader
        self._seen = seen
        self._target = Mark(totals.commit_no, totals.chain, totals.last_offset)
        self._stopped = threading.Event()
        self.done_offset = seen.done.last_offset
        self.first_offset = self.done_offset
        self.total_offset = totals.last_offset

    @property
    def events_left(self) -> int:
        return self.total_offset - self.done_offset

    def stop(self) -> None:
        """Makes `run` return at its next step."""
        self._stopped.set()

    def run(self) -> bool:
        """True when the index is complete; False when stopped.

        Raises DiskFull: it may be called again, and goes on. StoreCorrupt, InternalError, OutcomeUnknown are final.
        """
        digester = Digester(self._log.identity.digest_key)
        for mark in self._marks():
            query = ReadQuery(after=self.done_offset, before=mark.last_offset + 1)
            for events in self._reader.read(query, mark.last_offset):
                if self._stopped.is_set():
                    return False
                digests = digester.digests(events.topics, events.event_ids)
                entries = zip(digests, events.offsets, digester.fingerprints(events.payloads), strict=True)
                keys = {digest: pack_value(offset, fingerprint) for digest, offset, fingerprint in entries}
                self._write(keys, self._seen.done)
                self.done_offset = events.offsets[-1]
            self._write({}, mark)
        return True

    def wait_for_room(self) -> bool:
        """After DiskFull, until `run` is to be called again; False when stopped."""
        return not self._stopped.wait(FULL_DISK_WAIT_S)

    def _write(self, keys: dict[bytes, int], done: Mark) -> None:
        try:
            self._seen.write(keys, done, self._target)
        except DiskFull:
            self._seen.disk_is_full = True
            raise
        self._seen.disk_is_full = False

    def _marks(self) -> Iterator[Mark]:
        """Where the index may be said to be complete: at the end of each run, and of the log."""
        for run in self._runs:
            if run.last_offset > self.done_offset:
                yield Mark(run.last_commit, run.chain, run.last_offset)
        if self._seen.done != self._target:
            yield self._target
