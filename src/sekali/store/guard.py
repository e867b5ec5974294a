"""One process per store, and the file under its name stays the one that was opened."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from sekali.errors import BackupRefused, StoreLocked, StoreUnusable

_LOOK_S: Final = 0.2
"""How often somebody who waits looks at who it is that holds the lock."""


class ProcessGuard:
    """An operating system lock beside the store: it goes when its process goes, however that ends.

    The process id stands in a file of its own, since a locked file cannot be read on Windows.
    """

    def __init__(self, store_path: Path) -> None:
        self._pid_path = store_path.with_name(store_path.name + ".pid")
        self._lock = FileLock(store_path.with_name(store_path.name + ".lock"), thread_local=False)
        self._store_path = store_path

    def acquire(self, wait_s: float) -> None:
        """Waits up to `wait_s` for a predecessor to let go, and not at all for another worker of the same supervisor,
        which is none. Raises StoreLocked naming its process id."""
        deadline_s = time.monotonic() + wait_s
        try:
            while not self._is_acquired(max(0.0, min(_LOOK_S, deadline_s - time.monotonic()))):
                self._refuse_among_workers()
                if time.monotonic() >= deadline_s:
                    raise StoreLocked(
                        f"{self._store_path} is open in another process ({self._holder()}). One process per "
                        "store: stop that one, give this one another DB_PATH, and run uvicorn without --workers."
                    )
        except (OSError, NotImplementedError) as error:
            raise StoreUnusable(f"The folder of {self._store_path} cannot be written to: {error}") from error
        with suppress(OSError):  # a full disk: the lock holds all the same
            self._pid_path.write_text(f"{os.getpid()} {_supervisor_pid()}\n")

    def release(self) -> None:
        self._pid_path.unlink(missing_ok=True)
        self._lock.release()

    def _is_acquired(self, wait_s: float) -> bool:
        try:
            self._lock.acquire(timeout=wait_s, poll_interval=0.05)
        except Timeout:
            return False
        return True

    def _refuse_among_workers(self) -> None:
        pids = self._pids()
        if _supervisor_pid() and pids[1:] == [_supervisor_pid()]:
            raise StoreLocked(
                f"{self._store_path} is open in another worker of this server (pid {pids[0]}). One process owns a "
                "store: run uvicorn without --workers; CONSUMER_WORKERS sets the number of its threads."
            )

    def _holder(self) -> str:
        pids = self._pids()
        return f"pid {pids[0]}" if pids else "its pid is not known"

    def _pids(self) -> list[int]:
        """The holder's process id and its supervisor's, 0 where it has none; empty when they cannot be read."""
        try:
            return [int(text) for text in self._pid_path.read_text().split()]
        except (OSError, ValueError):
            return []


def _supervisor_pid() -> int:
    """Of the process that started this one as a worker of its own (`--workers`, `--reload`); 0 when none did."""
    parent = multiprocessing.parent_process()
    return 0 if parent is None or parent.pid is None else parent.pid


@contextmanager
def kept_from_servers(path: Path) -> Iterator[None]:
    """Nobody opens the store at `path` meanwhile, if there ever was one. Raises BackupRefused when a server has it."""
    lock = path.with_name(path.name + ".lock")
    if not lock.exists():
        yield
        return
    held = FileLock(lock, thread_local=False)
    try:
        held.acquire(timeout=0)
    except Timeout as error:
        raise BackupRefused(f"{path} is a store that a server has open; name another file") from error
    try:
        yield
    finally:
        held.release()


class FileIdentity:
    """Tells whether paths still name the files that were there when the store was opened."""

    def __init__(self, *paths: Path) -> None:
        """All of them exist. Raises OSError."""
        self._identities = {path: _identity(path) for path in paths}

    def still_holds(self) -> bool:
        try:
            return all(_identity(path) == identity for path, identity in self._identities.items())
        except OSError:
            return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def fsync_directory(path: Path) -> None:
    """Makes the names of files just created durable. Windows has no such call; there NTFS journals the names."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
