"""Sekali on a slower disk: SQLite's files are opened through a VFS that sleeps before each sync.

Only SQLite's files are slowed (the database and its write-ahead log); the seen index has no sync on the way to an
answer. Every read and write of SQLite passes through Python here, so compare a delay with a delay of 0, not with
`src.main:app`. The sleep releases the interpreter's lock, as a real sync does.

    SYNC_DELAY_MS=5 DB_PATH=/tmp/store.db uvicorn bench.peers.slow_disk:app
"""

from __future__ import annotations

import os
import time
from typing import Final

import apsw

from src.main import app

__all__ = ["app"]

DELAY_S: Final = int(os.environ.get("SYNC_DELAY_MS", "0")) / 1000
SYSTEM_VFS: Final = apsw.vfs_names()[0]
"""By name: the empty name would mean the default, which is the slow one from here on."""


class SlowFile(apsw.VFSFile):
    def xSync(self, flags: int) -> None:  # noqa: N802
        time.sleep(DELAY_S)
        super().xSync(flags)


class SlowVFS(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("slow", SYSTEM_VFS, makedefault=True)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> SlowFile:  # noqa: N802
        return SlowFile(SYSTEM_VFS, name, flags)


slow_vfs: Final = SlowVFS()
"""Kept for the life of the process, as is every connection that uses it. The application opens its store later, when
its lifespan starts."""
