"""A disk that loses power, and one that fails: SQLite's files pass through it, by a VFS in Python.

What a file holds for sure is what it held at its last sync. Each write since then may be there after a cut, or not, or
in part: sector by sector, in any order. A name in the folder is certain once the file was synced (SQLite syncs the
folder with a new write-ahead log), or the folder; a deleted file may come back. After a sync that failed, what it was
to bring to the disk is lost, though it can still be read until the power is cut: so does Linux.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import apsw
import pytest

from sekali.store import log as log_module

SECTOR_BYTES: Final = 512
_SYSTEM_VFS: Final = apsw.vfs_names()[0]
_NUMBERS: Final = count(1)

Operation = str
"""`write`, `sync`, `truncate`, `read`, `size`, `open` or `delete`."""


@dataclass(slots=True)
class _Write:
    """`data` at `offset`; or, where it is None, the end of the file put there."""

    offset: int
    data: bytes | None

    def apply(self, content: bytearray) -> None:
        if self.data is None:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        if len(content) < self.offset:
            content.extend(bytes(self.offset - len(content)))
        content[self.offset : self.offset + len(self.data)] = self.data

    def sectors(self) -> Iterator[_Write]:
        if self.data is None:
            yield self
            return
        start = 0
        while start < len(self.data):
            size = SECTOR_BYTES - (self.offset + start) % SECTOR_BYTES
            yield _Write(self.offset + start, self.data[start : start + size])
            start += size

    def torn(self, draw: random.Random) -> _Write:
        return self if self.data is None else _Write(self.offset, self.data[: draw.randrange(len(self.data))])


@dataclass(slots=True)
class _File:
    """`durable`: what is there after a cut whatever happens. `unsynced`: what may be there, in order."""

    durable: bytearray = field(default_factory=bytearray)
    unsynced: list[_Write] = field(default_factory=list)
    has_durable_name: bool = False

    def copy(self) -> _File:
        return _File(bytearray(self.durable), list(self.unsynced), self.has_durable_name)


class PowerCut:
    """All that the disk holds at a moment, for sure and perhaps."""

    def __init__(self, files: dict[str, _File], deleted: dict[str, _File]) -> None:
        self._files = files
        self._deleted = deleted

    def leave(self, target: Path, draw: random.Random) -> str:
        """Writes into the folder what is found after the cut, as `draw` decides; says in a word how it went."""
        target.mkdir(parents=True)
        kind = draw.choice(["nothing more", "all of it", "in order", "any sectors", "any sectors"])
        for path, file in {**self._deleted, **self._files}.items():
            is_certain = path in self._files and file.has_durable_name
            if is_certain or draw.random() < 0.5:
                (target / Path(path).name).write_bytes(_after_cut(file, kind, draw))
        return kind


def _after_cut(file: _File, kind: str, draw: random.Random) -> bytes:
    content = bytearray(file.durable)
    writes = file.unsynced
    if kind == "nothing more" or not writes:
        return bytes(content)
    if kind == "in order":
        sectors = [sector for write in writes for sector in write.sectors()]
        kept = sectors[: draw.randrange(len(sectors) + 1)]
        writes = [*kept[:-1], kept[-1].torn(draw)] if kept else []
    elif kind == "any sectors":
        share = draw.choice([0.1, 0.5, 0.9])
        sectors = [sector for write in writes for sector in write.sectors() if draw.random() < share]
        writes = [sector.torn(draw) if draw.random() < 0.05 else sector for sector in sectors]
    for write in writes:
        write.apply(content)
    return bytes(content)


class Disk:
    """The files of one folder. `before` is called ahead of every operation, under the disk's lock, and may raise what
    the operation fails with."""

    def __init__(self, before: Callable[[Operation, str], None] = lambda operation, path: None) -> None:
        self.before = before
        self.operations = 0
        self.lies_about_syncs = False
        """A planted bug: syncs return and bring nothing to the disk."""
        self.lock = threading.RLock()
        self._files: dict[str, _File] = {}
        self._deleted: dict[str, _File] = {}

    def cut(self) -> PowerCut:
        with self.lock:
            files = {path: file.copy() for path, file in self._files.items()}
            return PowerCut(files, {path: file.copy() for path, file in self._deleted.items()})

    def note(self, operation: Operation, path: str) -> _File:
        """Counts an operation, lets `before` have its say, and gives the file concerned."""
        self.operations += 1
        try:
            self.before(operation, path)
        except apsw.Error:
            if operation == "sync":
                self._files[path].unsynced.clear()  # and never comes back, whoever syncs again
            raise
        return self._files.setdefault(path, _File())

    def synced(self, file: _File, path: str) -> None:
        if self.lies_about_syncs:
            return
        for write in file.unsynced:
            write.apply(file.durable)
        file.unsynced.clear()
        if path.endswith("-wal"):
            file.has_durable_name = True
            self._deleted.pop(path, None)

    def deleted(self, path: str) -> None:
        file = self._files.pop(path, None)
        if file is not None and file.has_durable_name:
            self._deleted[path] = file

    def folder_synced(self) -> None:
        with self.lock:
            self._deleted.clear()
            for file in self._files.values():
                file.has_durable_name = True


class _DiskFile(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        with disk.lock:
            disk.note("open", self._path)
        super().__init__(_SYSTEM_VFS, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        with self._disk.lock:
            self._disk.note("read", self._path)
        return super().xRead(amount, offset)

    def xFileSize(self) -> int:  # noqa: N802
        with self._disk.lock:
            self._disk.note("size", self._path)
        return super().xFileSize()

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802
        with self._disk.lock:
            file = self._disk.note("write", self._path)
            super().xWrite(data, offset)
            file.unsynced.append(_Write(offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        with self._disk.lock:
            file = self._disk.note("truncate", self._path)
            super().xTruncate(newsize)
            file.unsynced.append(_Write(newsize, None))

    def xSync(self, flags: int) -> None:  # noqa: N802
        with self._disk.lock:
            self._disk.synced(self._disk.note("sync", self._path), self._path)


class _DiskVFS(apsw.VFS):
    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.name = f"disk-{next(_NUMBERS)}"
        super().__init__(self.name, _SYSTEM_VFS, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _DiskFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        with self._disk.lock:
            self._disk.note("delete", filename)
            super().xDelete(filename, syncdir)
            self._disk.deleted(filename)
            if syncdir:
                self._disk.folder_synced()


@contextmanager
def used_by_sqlite(disk: Disk) -> Iterator[Disk]:
    """Within the `with` block every new connection's files are on this disk."""
    vfs = _DiskVFS(disk)
    with pytest.MonkeyPatch.context() as patch:
        sync_folder = log_module.fsync_directory

        def note_and_sync(folder: Path) -> None:
            sync_folder(folder)
            disk.folder_synced()

        patch.setattr(log_module, "fsync_directory", note_and_sync)
        try:
            yield disk
        finally:
            apsw.set_default_vfs(_SYSTEM_VFS)
            vfs.unregister()
