"""A read under way: driven in short steps, and holding nothing large while its client takes its time."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, repeat
from operator import add
from typing import Final

from sekali.event import ReadQuery, StoredEvents
from sekali.hub import Hub

PART_BYTES: Final = 256 * 1024
OPEN_READS_MAX: Final = 8
_ENVELOPE_BYTES: Final = 200
"""Of an event's JSON, without its payload: a guess, which only sizes the parts."""


class Reading:
    """A read of the store in parts of bounded size, driven by one thread at a time.

    `stop` and `release` may come from anywhere, at any time, and do not block.
    """

    def __init__(self, hub: Hub, query: ReadQuery) -> None:
        self._hub = hub
        self._query = query
        """What is still to be read; moves on with every part."""
        self._runs: Iterator[StoredEvents] | None = None
        self._run: StoredEvents | None = None
        self._sizes: list[int] = []
        """Encoded bytes of the run up to and with each of its events, about."""
        self._taken = 0
        """Events of the run that were given out."""
        self._lock = threading.Lock()
        self.is_stopped = False

    def next_part(self) -> StoredEvents | None:
        """About PART_BYTES of events, at least one; none where the store looked through a run in vain. Blocks.

        None at the end, and once stopped.
        """
        with self._lock:
            part = None if self.is_stopped else self._next_part()
        if self.is_stopped:
            self.stop()
            return None
        return part

    def stop(self) -> None:
        """Ends the read; a step that is under way closes it when it is done."""
        self.is_stopped = True
        self.release()

    def release(self) -> None:
        """Lets go of what the store holds for this read, except while a step is under way. The next step opens it anew
        where it was."""
        if self._lock.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._lock.release()

    @property
    def is_open(self) -> bool:
        return self._runs is not None

    def _next_part(self) -> StoredEvents | None:
        if self._runs is None:
            self._runs = self._open()
        if self._run is None:
            self._run = next(self._runs, None)
            if self._run is None:
                return None
            self._sizes = list(accumulate(map(add, map(len, self._run.payloads), repeat(_ENVELOPE_BYTES))))
            self._taken = 0
        return self._cut_part(self._run)

    def _open(self) -> Iterator[StoredEvents]:
        if self._query.before is None:
            # The end stays where it is now, also when the read is opened anew.
            self._query = replace(self._query, before=self._hub.last_offset + 1)
        return self._hub.read(self._query)

    def _cut_part(self, run: StoredEvents) -> StoredEvents:
        first, sizes = self._taken, self._sizes
        if first == len(sizes):
            self._run = None
            return run
        before = sizes[first - 1] if first else 0
        end = min(bisect_left(sizes, before + PART_BYTES, lo=first) + 1, len(sizes))
        self._taken = end
        if end == len(sizes):
            self._run = None
        last = run.offsets[end - 1]
        going_down = self._query.descending
        self._query = replace(self._query, before=last) if going_down else replace(self._query, after=last)
        return run.part(first, end)

    def _close(self) -> None:
        runs, self._runs, self._run = self._runs, None, None
        close = getattr(runs, "close", None)
        if close is not None:
            close()


class OpenReads:
    """Which reads wait for their client with a run of the store in their hands: at most OPEN_READS_MAX.

    A run is some tens of megabytes once it is decoded, and a client may take its time. Past the bound the one that
    has waited longest lets go of its run. Over all event loops.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: OrderedDict[Reading, None] = OrderedDict()

    def wait(self, reading: Reading) -> None:
        with self._lock:
            self._waiting[reading] = None
            oldest = self._waiting.popitem(last=False)[0] if len(self._waiting) > OPEN_READS_MAX else None
        if oldest is not None:
            oldest.release()

    def leave(self, reading: Reading) -> None:
        with self._lock:
            self._waiting.pop(reading, None)
