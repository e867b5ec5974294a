"""When the store is open: from lifespan start to lifespan end; where no lifespan runs, from the first request to exit.

Everything here belongs to one app object. Nothing is bound to an event loop: a bare TestClient brings a new loop with
every request, and two loops may ask for the hub at the same time.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import gc
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar

from pydantic import ValidationError

from sekali.errors import SekaliError, StoreUnusable
from sekali.http import signals
from sekali.http.body import BodyBudget
from sekali.http.deadlines import Deadlines
from sekali.http.heads import bound_heads
from sekali.http.reading import OpenReads
from sekali.hub import Hub
from sekali.settings import Settings, broken_settings, unknown_variables
from sekali.wire.native import DecodeLimits

if TYPE_CHECKING:
    from sekali.http.app import SekaliApp

DECODE_THREADS: Final = 2
COLLECT_AFTER_OBJECTS: Final = 20_000
SLOW_OPENING_S: Final = 1.0
"""An opening that takes longer is spoken of."""
ABANDONED_CLOSE_S_MAX: Final = 20.0
"""How long the interpreter's exit waits for the store of an app that was dropped without closing it."""
CLOSE_S_MAX: Final = 1.0
"""How long the store may take to close when the exit is overdue."""

_T = TypeVar("_T")
_log = logging.getLogger("sekali")


class Serving:
    """What an app holds while its store is open."""

    def __init__(self, hub: Hub, on_overdue: Callable[[Serving], None]) -> None:
        settings = hub.settings
        self.hub: Final = hub
        self.decode_limits: Final = DecodeLimits(
            batch_events_max=settings.batch_events_max,
            event_bytes_max=settings.event_bytes_max,
            depth_max=settings.depth_max,
            body_bytes_max=settings.body_bytes_max,
        )
        self.bodies: Final = BodyBudget(settings.bodies_bytes_max)
        self.deadlines: Final = Deadlines(hub, lambda: on_overdue(self))
        self.open_reads: Final = OpenReads()
        self.decoders: Final = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="sekali-decode")

    def close(self) -> bool:
        """Blocks while the hub drains. Idempotent. False if it could not be closed in time."""
        is_closed = self.hub.close()
        self.deadlines.stop()
        self.decoders.shutdown(wait=False)
        return is_closed


class Lifecycle:
    """Opens, shares and closes the hub of one app, any number of times."""

    def __init__(self, settings: Settings | None) -> None:
        """`settings` None: they are read from the environment whenever the store is opened."""
        self._settings = settings
        self._lock = threading.Lock()
        self._opening: Future[Serving] | None = None
        self._lifespans = 0
        self._starting_loop: asyncio.AbstractEventLoop | None = None
        self._signals = signals.SignalChain(self._on_signal)
        self._exit_code = signals.FAILURE_EXIT
        self._is_told_to_stop = False
        self._process = os.getpid()
        """That opened it last."""
        self.current: Serving | None = None
        """What is open now. May be read without a lock."""
        self.is_leaving = False
        """The process is about to end in the middle of a lifespan; why was said, a traceback would add nothing."""

    async def serving(self) -> Serving:
        """What is open, opened first if need be. Raises StoreUnusable, StoreLocked."""
        current = self.current
        return current if current is not None else await asyncio.wrap_future(self._open())

    def abandon(self) -> None:
        """The app object was collected: close what it had open. On a thread, since collection may happen anywhere.

        The interpreter waits for that thread: ended in the middle of the store's native code, it would abort.
        """
        if self.current is None:
            return
        closing = _in_thread(self._close, name="sekali-close")

        def wait() -> None:
            concurrent.futures.wait([closing], timeout=ABANDONED_CLOSE_S_MAX)

        atexit.register(wait)
        closing.add_done_callback(lambda _: atexit.unregister(wait))

    # Lifespan

    async def start(self) -> None:
        """Open the store. Raises StoreUnusable where no server is in charge; where one is, the process ends with 1."""
        with self._lock:
            self._lifespans += 1
            is_first = self._lifespans == 1
        if is_first:
            self._starting_loop = asyncio.get_running_loop()
            self._is_told_to_stop = False
            self._signals.install()
        try:
            if is_first:
                await self._close_if_settings_changed()
            await self._serving_said_when_slow()
            if is_first and self._signals.is_installed:
                bound_heads(self._signals.server)
                _spare_the_collector()
        except BaseException as error:
            with self._lock:
                self._lifespans -= 1
            if is_first:
                self._signals.restore()
            if isinstance(error, StoreUnusable) and signals.server_is_in_charge():
                await self._refuse_to_start(error)
            raise
        finally:
            if is_first:
                self._starting_loop = None

    async def stop(self) -> None:
        """Close the store when the last lifespan ends."""
        with self._lock:
            self._lifespans -= 1
            if self._lifespans:
                return
        serving = self.current
        server_is_ours = self._signals.is_installed
        has_failed = False
        try:
            await asyncio.wrap_future(_in_thread(self._close, name="sekali-close"))
        except Exception as error:
            if not server_is_ours:
                raise
            _log.critical("The store could not be closed: unexpected %s", type(error).__name__, exc_info=error)
            has_failed = True
        finally:
            self._signals.restore()
        if server_is_ours and (has_failed or (serving is not None and serving.hub.failed is not None)):
            self.is_leaving = True
            await signals.leave(signals.FAILURE_EXIT)

    async def _serving_said_when_slow(self) -> None:
        opening = asyncio.ensure_future(self.serving())
        try:
            done, _ = await asyncio.wait({opening}, timeout=SLOW_OPENING_S)
            if not done and self._signals.is_installed:
                _say("Still opening the store: it catches up, or another process has not let go of it yet.")
            await opening
        finally:
            opening.cancel()

    async def _close_if_settings_changed(self) -> None:
        """A request before the lifespan may have opened the store, with other settings than those of now."""
        open_now = self.current
        if open_now is None or (open_now.hub.failed is None and open_now.hub.settings == self._read_settings()):
            return
        await asyncio.wrap_future(_in_thread(self._close, name="sekali-close"))

    async def _refuse_to_start(self, error: StoreUnusable) -> NoReturn:
        """Say why, in one line, and have the process end with 1. A supervisor would start a worker that ended with 1
        again and again; what stops it is the server's own code for a failed start."""
        self.is_leaving = True
        _say(error.detail)
        if signals.is_worker_of_several():
            raise error
        await signals.leave(signals.STORE_UNUSABLE_EXIT)

    # Opening and closing

    def _open(self) -> Future[Serving]:
        with self._lock:
            if self.current is not None:
                return _done(self.current)
            if self._opening is None:
                self._opening = _in_thread(self._open_now, name="sekali-open")
            return self._opening

    def _open_now(self) -> Serving:
        try:
            if self._settings is None:
                for line in unknown_variables(os.environ):
                    _say(line)
            hub = Hub.open(self._read_settings())
        except BaseException:
            with self._lock:
                self._opening = None
            raise
        serving = Serving(hub, self._overdue)
        self._process = os.getpid()
        hub.on_failure = self._hub_failed
        with self._lock:
            self.current = serving
            self._opening = None
        atexit.register(self._close)
        if hub.failed is not None:
            self._hub_failed(hub.failed)
        return serving

    def _close(self) -> None:
        if os.getpid() != self._process:  # a forked child, at its exit: what is open is the parent's, and so are locks
            self.current = None
            return
        with self._lock:
            serving, self.current = self.current, None
        atexit.unregister(self._close)
        if serving is not None and not serving.close():
            _say("The store is still busy and is left open. All that was answered for is on disk.")

    def _read_settings(self) -> Settings:
        if self._settings is not None:
            return self._settings
        try:
            return Settings()
        except ValidationError as error:
            raise StoreUnusable(broken_settings(error)) from error

    # Signals and failure

    def _on_signal(self, number: int) -> None:
        """In the signal's handler: no lock may be taken."""
        if number == signal.SIGINT and self._is_told_to_stop:
            # As good as kill -9, which loses nothing. The server would drop its tasks and show the traceback of each.
            with suppress(OSError):  # unbuffered: the signal may have come in the middle of a write to sys.stderr
                os.write(2, b"sekali: Ended at once, at the second Ctrl-C. All that was answered for is on disk.\n")
            os._exit(128 + number)
        self._is_told_to_stop = True
        self._exit_code = 128 + number
        if self.current is not None:
            self.current.hub.start_draining()
        elif self._starting_loop is not None:
            # The store is still being opened, on a thread that may be given up: the server would wait for it.
            self.is_leaving = True
            signals.leave_from_signal(self._starting_loop, self._exit_code)

    def _hub_failed(self, _: SekaliError) -> None:
        if self._signals.is_installed:
            signals.ask_to_stop()

    def _overdue(self, serving: Serving) -> None:
        """All requests were cut, and still the server does not end: it waits for clients that take in nothing. Where
        the process is a server's, close the store and leave."""
        if not self._signals.is_installed:
            return
        exit_code = self._exit_code
        try:
            if not _in_thread(serving.close, name="sekali-close").result(CLOSE_S_MAX):
                exit_code = signals.FAILURE_EXIT
        except Exception:  # noqa: BLE001  (too slow, or failed: it has to end in either case)
            exit_code = signals.FAILURE_EXIT
        _say("Some connections hold up the exit. Leaving without them; all that was answered for is on disk.")
        os._exit(signals.FAILURE_EXIT if serving.hub.failed is not None else exit_code)


def tie(app: SekaliApp) -> None:
    """When the app object is collected, close what it left open."""
    weakref.finalize(app, app.lifecycle.abandon).atexit = False


async def hub_of(app: SekaliApp) -> Hub:
    """The app's hub, opened first if need be. Raises StoreUnusable, StoreLocked."""
    return (app.lifecycle.current or await app.lifecycle.serving()).hub


def _in_thread(work: Callable[[], _T], *, name: str) -> Future[_T]:
    """Run `work` on a daemon thread of its own. Waiters that give up do not stop it."""
    future: Future[_T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001  (handed on to whoever waits)
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=run, name=name, daemon=True).start()
    return future


def _done(result: _T) -> Future[_T]:
    future: Future[_T] = concurrent.futures.Future()
    future.set_result(result)
    return future


def _spare_the_collector() -> None:
    """Where the process is a server's: what start-up has made stays for good, so Python's collector of reference cycles
    need not go through it again and again, nor look for cycles after every 700 objects. (With no collection at all a
    single publish took a seventh less CPU time.)"""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, *gc.get_threshold()[1:])


def _say(line: str) -> None:
    sys.stderr.write(f"sekali: {line}\n")
    sys.stderr.flush()
