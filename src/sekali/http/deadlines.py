"""Ends requests that are open for too long: a body that trickles in; while draining, whatever holds up the exit.

uvicorn leaves both open for ever. One thread looks around a few times a second, which costs a request two set
operations instead of a timer of its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from sekali.hub import Hub

TICK_S: Final = 0.2
OVERDUE_S: Final = 0.5
"""After everything still open was cut, the exit is overdue."""


class Cut(Enum):
    """Why a request was ended."""

    TOO_SLOW = "too slow"
    DRAINING = "draining"


class Watched:
    """A request in a state that may not last. `cut` tells, once its task was cancelled, whether it was by us."""

    __slots__ = ("cut", "cut_at_s", "cut_when_draining", "task")

    def __init__(self, task: asyncio.Task[Any], cut_at_s: float | None, *, cut_when_draining: bool) -> None:
        self.task = task
        self.cut_at_s = cut_at_s
        """`time.monotonic()`; may be moved at any time. None: no limit before draining."""
        self.cut_when_draining = cut_when_draining
        """True: ended as soon as draining begins. False: at the hub's `cut_at_s`."""
        self.cut: Cut | None = None

    def was_cut(self) -> bool:
        """To be asked on CancelledError: True if it was our doing, and ours only; the task then goes on."""
        return self.cut is not None and self.task.uncancel() == 0


class Deadlines:
    """Cancels the task of a watched request when its time is up. One per open hub."""

    def __init__(self, hub: Hub, on_overdue: Callable[[], None]) -> None:
        """`on_overdue` is called, on this thread, if draining takes longer than it may."""
        self._hub = hub
        self._on_overdue = on_overdue
        self._watched: set[Watched] = set()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="sekali-deadlines", daemon=True).start()

    def enter(self, cut_at_s: float | None, *, cut_when_draining: bool = False) -> Watched:
        """Watch the current task until `leave`. On CancelledError ask `was_cut`."""
        task = asyncio.current_task()
        assert task is not None, "what is watched is a task"
        watched = Watched(task, cut_at_s, cut_when_draining=cut_when_draining)
        self._watched.add(watched)
        return watched

    def leave(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(TICK_S):
            self._look_around(time.monotonic())

    def _look_around(self, now_s: float) -> None:
        drain_cut_at_s = self._hub.cut_at_s
        for watched in self._watched.copy():
            why = _due(watched, now_s, drain_cut_at_s)
            loop = watched.task.get_loop()
            if why is None or loop.is_closed():
                continue
            try:
                loop.call_soon_threadsafe(self._cut, watched, why)
            except RuntimeError:
                # Closed meanwhile: its tasks are gone.
                if not loop.is_closed():
                    raise
        if drain_cut_at_s is not None and now_s >= drain_cut_at_s + OVERDUE_S:
            self._on_overdue()

    def _cut(self, watched: Watched, why: Cut) -> None:
        """On the request's own loop, so it cannot be leaving at the same time."""
        if watched in self._watched and watched.cut is None:
            watched.cut = why
            watched.task.cancel()


def _due(watched: Watched, now_s: float, drain_cut_at_s: float | None) -> Cut | None:
    if drain_cut_at_s is not None and (watched.cut_when_draining or now_s >= drain_cut_at_s):
        return Cut.DRAINING
    if watched.cut_at_s is not None and now_s >= watched.cut_at_s:
        return Cut.TOO_SLOW
    return None
