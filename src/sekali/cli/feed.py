"""Reading ahead: the input is read and parsed on a thread of its own while the last request is under way.

What arrives meanwhile is the next batch: a file is sent in full batches, and a slow pipe (`tail -f | sekali publish -`)
a few lines at a time, soon after they appear.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Final

from sekali.cli.inputs import BadItem, EventInput, Item

RUNS_AHEAD_MAX: Final = 4
LINGER_S: Final = 0.05
"""How long a batch that is not full waits for more."""
WAKE_S: Final = 0.5
"""A wait without end could not be interrupted on Windows."""

Run = list[Item | BadItem]


class Feed:
    """Batches out of an input, bounded in number and bytes."""

    def __init__(self, events: EventInput, *, batch_events_max: int, batch_bytes_max: int) -> None:
        self._events = events
        self._batch_events_max = batch_events_max
        self._batch_bytes_max = batch_bytes_max
        self._runs: queue.Queue[Run | BaseException | None] = queue.Queue(RUNS_AHEAD_MAX)
        self._given_up = threading.Event()
        threading.Thread(target=self._read_ahead, name="sekali-input", daemon=True).start()

    def batches(self) -> Iterator[list[Item | BadItem]]:
        """Every item in order; a batch has one at least. Raises what reading the input raised."""
        batch: list[Item | BadItem] = []
        size_bytes = 0
        for run in self._arrivals():
            if run is None and batch:
                yield batch
                batch, size_bytes = [], 0
            for item in run or ():
                item_bytes = len(item.encoded) + 1 if isinstance(item, Item) else 0
                if batch and (len(batch) >= self._batch_events_max or size_bytes + item_bytes > self._batch_bytes_max):
                    yield batch
                    batch, size_bytes = [], 0
                batch.append(item)
                size_bytes += item_bytes
        if batch:
            yield batch

    def give_up(self) -> None:
        """Read no more. A read that is under way is left to end by itself."""
        self._given_up.set()

    def _arrivals(self) -> Iterator[Run | None]:
        """The runs as they come; None when nothing has come for a while. Ends with the input."""
        lingered = False
        while True:
            try:
                run = self._runs.get(timeout=WAKE_S if lingered else LINGER_S)
            except queue.Empty:
                lingered = True
                yield None
                continue
            if run is None:
                return
            if isinstance(run, BaseException):
                raise run
            lingered = False
            yield run

    def _read_ahead(self) -> None:
        try:
            for run in self._events.chunks():
                self._put(run)
                if self._given_up.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by batches(), on the other thread
            self._put(error)
        else:
            self._put(None)

    def _put(self, run: Run | BaseException | None) -> None:
        while not self._given_up.is_set():
            try:
                self._runs.put(run, timeout=WAKE_S)
            except queue.Full:
                continue
            return
