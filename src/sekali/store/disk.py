"""Free space on the disk of the store: below one water mark publishing stops, above a higher one it goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

from sekali.errors import DiskFull


class FreeSpace:
    """Two water marks, so that publishing does not flap."""

    def __init__(self, folder: Path, bytes_min: int, bytes_resume: int) -> None:
        self._folder = folder
        self._bytes_min = bytes_min
        self._bytes_resume = max(bytes_min, bytes_resume)
        self._was_full = False

    def refusal(self) -> DiskFull | None:
        """What a publish is refused with now; None while there is room."""
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError:
            return None  # the folder is gone: the commit will find that the file is, too
        self._was_full = free < (self._bytes_resume if self._was_full else self._bytes_min)
        if not self._was_full:
            return None
        return DiskFull(
            f"Only {free} bytes are free on the disk of the store. Nothing is stored until there are "
            f"{self._bytes_resume}.",
            retry_after_s=5,
        )
