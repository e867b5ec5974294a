"""How the process is told to stop, and how it leaves.

uvicorn runs the lifespan's end only after every open response has ended, so draining has to begin in the signal's
handler: ours is put in front of the server's, and calls it. Main thread only, and only where a server has put a
handler of its own: nowhere else is a signal ours to handle.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

STORE_UNUSABLE_EXIT: Final = 1
FAILURE_EXIT: Final = 70
"""EX_SOFTWARE of sysexits.h: the store has stopped, or the exit took too long."""

_STOP_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)
)

_PythonHandler = Callable[[int, FrameType | None], Any]


def server_is_in_charge() -> bool:
    """Whether a server runs the process: it handles SIGTERM, and the current thread is the main one."""
    return threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGTERM))


def is_worker_of_several() -> bool:
    """Whether a supervisor started this process (`--workers`, `--reload`)."""
    return multiprocessing.parent_process() is not None


async def leave(exit_code: int) -> NoReturn:
    """End the process from inside the lifespan. A SystemExit raised in a task would be taken for a failed start; one
    raised by the loop itself goes through the server's clean-up and out."""
    asyncio.get_running_loop().call_soon(_raise_exit, exit_code)
    await asyncio.Event().wait()  # until the loop is torn down
    raise AssertionError("an event that nobody has was set")


def leave_from_signal(loop: asyncio.AbstractEventLoop, exit_code: int) -> None:
    loop.call_soon_threadsafe(_raise_exit, exit_code)


def _raise_exit(exit_code: int) -> NoReturn:
    raise SystemExit(exit_code)


def ask_to_stop() -> None:
    """Have the server drain and end, as if somebody had sent SIGTERM. From any thread."""
    main_thread_id = threading.main_thread().ident
    if sys.platform != "win32" and main_thread_id is not None:
        signal.pthread_kill(main_thread_id, signal.SIGTERM)
    else:
        # os.kill would end the process at once there.
        signal.raise_signal(signal.SIGTERM)


class SignalChain:
    """Our handler in front of the server's own. `on_signal` must take no lock: it may interrupt anything."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._previous: dict[int, _PythonHandler] = {}

    @property
    def is_installed(self) -> bool:
        return bool(self._previous)

    @property
    def server(self) -> object:
        """Whose handlers ours are in front of; None where they are no object's."""
        return next((getattr(handler, "__self__", None) for handler in self._previous.values()), None)

    def install(self) -> None:
        if self._previous or not server_is_in_charge():
            return
        for number in _STOP_SIGNALS:
            previous = signal.getsignal(number)
            if callable(previous):
                self._previous[number] = previous
                signal.signal(number, self._handle)

    def restore(self) -> None:
        """Only where the handler is still ours: somebody may have put theirs in front of it."""
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, previous)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous.get(number)
        self._on_signal(number)
        if previous is not None:
            previous(number, frame)
