"""Copying a store into one file, whether a server has it open or not.

Contract of `back_up`:

- **Consistent.** The copy is the store after one of its commits, not earlier than the last one answered for when the
  copying began. What lies in the write-ahead log is in it. It opens as a store; the seen index is rebuilt then.
- **Beside.** The source is opened for reading only; commits go on. Until the copy is complete the write-ahead log can't
  start over, and no server can open the store anew.
- **Whole or not at all.** The copy grows under another name in the target's folder, is synced, and gets its name in one
  step: whatever happens on the way, the target is what it was. Only a kill leaves the other file (`.part`) behind.
- **Errors.** StoreUnusable: the source is no store that this version reads. BackupRefused: the target is not to be
  overwritten, or cannot be written. StoreCorrupt: the source is damaged.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from sekali.errors import BackupRefused, SekaliError, StoreCorrupt
from sekali.store.guard import fsync_directory, kept_from_servers
from sekali.store.log import check_is_store, open_to_read, read_only, totals_of

_PROGRESS_STEPS: Final = 100
"""Of SQLite's machine, between two calls. A step may copy a whole block."""

OnProgress = Callable[[int, int], None]
"""Bytes written, and about how many there will be. May raise: the copying ends with that."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What was written."""

    events: int
    size_bytes: int


def back_up(source: Path, target: Path, *, replace: bool = False, on_progress: OnProgress | None = None) -> Backup:
    """Copy the store at `source` to `target`; `replace`: also where a file of that name is. See the module."""
    _refuse_target(source, target, replace=replace)
    with kept_from_servers(target):
        pass  # said before the work; what counts is that it holds when the file is replaced
    connection = open_to_read(source)
    try:
        partial = _partial_file(target)
        try:
            _copy(connection, source, partial, on_progress)
            backup = _made_durable(partial, source)
            with kept_from_servers(target):
                _refuse_target(source, target, replace=replace)
                partial.replace(target)
            fsync_directory(target.parent)
        except OSError as error:
            raise BackupRefused(f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            partial.unlink(missing_ok=True)
    finally:
        connection.close()
    return backup


def _refuse_target(source: Path, target: Path, *, replace: bool) -> None:
    if not target.parent.is_dir():
        raise BackupRefused(f"{target} cannot be written: there is no folder {target.parent}")
    if target.is_dir():
        raise BackupRefused(f"{target} is a folder; name a file in it, such as {target / 'backup.db'}")
    if target.exists() and source.exists() and target.samefile(source):
        raise BackupRefused(f"{target} is the store itself; name another file")
    if target.exists() and not replace:
        raise BackupRefused(f"{target} exists; --force replaces it")
    wal = target.with_name(target.name + "-wal")
    if wal.exists() and wal.stat().st_size:
        # SQLite would take it for the copy's own and play it in.
        raise BackupRefused(f"{wal} lies there: {target} is in use as a store, or was; name another file")


def _partial_file(target: Path) -> Path:
    """A new empty file, which SQLite takes as it takes none."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise BackupRefused(f"{target} cannot be written: {error.strerror or error}") from error
    os.close(descriptor)
    return Path(name)


def _copy(connection: apsw.Connection, source: Path, partial: Path, on_progress: OnProgress | None) -> None:
    pages = connection.pragma("page_count") - connection.pragma("freelist_count")
    size_bytes = pages * connection.pragma("page_size")
    free_bytes = shutil.disk_usage(partial.parent).free
    if free_bytes < size_bytes:
        raise BackupRefused(f"{partial.parent} has {free_bytes:,} bytes free; the copy needs about {size_bytes:,}")

    def tell() -> bool:
        """Called from inside the copying, where a signal gets its turn too."""
        if on_progress is not None:
            on_progress(min(partial.stat().st_size, size_bytes), size_bytes)
        return False

    connection.set_progress_handler(tell, _PROGRESS_STEPS)
    try:
        connection.execute("VACUUM INTO ?", (str(partial),))
    except apsw.FullError as error:
        raise BackupRefused(
            f"the disk of {partial.parent} is full; the copy needs about {size_bytes:,} bytes"
        ) from error
    except apsw.CorruptError as error:
        raise StoreCorrupt(f"{source} is damaged ({error}); restore it from an older backup") from error
    except apsw.Error as error:
        raise BackupRefused(f"the copying failed: {error}") from error
    finally:
        connection.set_progress_handler(None)


def _made_durable(partial: Path, source: Path) -> Backup:
    """Read the figures from the copy, give it the source's permissions, and sync it."""
    connection = read_only(partial)
    try:
        check_is_store(connection, partial)
        events = totals_of(connection).events
    except apsw.Error as error:
        raise BackupRefused(f"the copy cannot be read: {error}") from error
    except SekaliError as error:
        raise StoreCorrupt(f"{source}: {error.detail}") from error
    finally:
        connection.close()
    partial.chmod(source.stat().st_mode & 0o777)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    return Backup(events, partial.stat().st_size)
