"""One process per store, and the file under its name stays the one that was opened."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sekali.errors import StoreLocked, StoreUnusable


class ProcessGuard:
    """An operating system lock beside the store: it goes when its process goes, however that ends.

    The process id stands in a file of its own, since a locked file cannot be read on Windows.
    """

    def __init__(self, store_path: Path) -> None:
        self._pid_path = store_path.with_name(store_path.name + ".pid")
        self._lock = FileLock(store_path.with_name(store_path.name + ".lock"), thread_local=False)
        self._store_path = store_path

    def acquire(self, wait_s: float) -> None:
        """Waits up to `wait_s` for a predecessor to let go. Raises StoreLocked naming its process id."""
        try:
            self._lock.acquire(timeout=wait_s, poll_interval=0.05)
        except Timeout as error:
            raise StoreLocked(
                f"{self._store_path} is open in another process ({self._holder()}). One process per "
                "store: stop that one, give this one another DB_PATH, and run uvicorn without --workers."
            ) from error
        except (OSError, NotImplementedError) as error:
            raise StoreUnusable(f"The folder of {self._store_path} cannot be written to: {error}") from error
        with suppress(OSError):  # a full disk: the lock holds all the same
            self._pid_path.write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        self._pid_path.unlink(missing_ok=True)
        self._lock.release()

    def _holder(self) -> str:
        try:
            return f"pid {int(self._pid_path.read_text())}"
        except (OSError, ValueError):
            return "its pid is not known"


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
