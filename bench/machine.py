"""Where and on what a result was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import statistics
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil

FSYNC_SAMPLES: Final = 100
_SERVING: Final = ("apsw", "fastapi", "httptools", "msgspec", "rocksdict", "uvicorn", "uvloop", "zstandard")
_DRIVING: Final = ("asyncpg", "hiredis", "nats-py", "redis")


def provenance(root: Path, work: Path) -> dict[str, Any]:
    """Date, commit and machine; `work` is the folder whose disk is timed."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git(root, "rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git(root, "status", "--porcelain")),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "system": platform.platform(),
            "file_system": _file_system(work),
            "fsync_ms_median": fsync_ms_median(work),
            "load_average_before": [round(each, 2) for each in psutil.getloadavg()],
        },
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in (*_SERVING, *_DRIVING)},
    }


def fsync_ms_median(folder: Path) -> float:
    """Median time to append 4 kB to a file and have it on disk: what bounds a commit."""
    file = folder / "fsync-probe"
    took_ms = []
    with file.open("wb", buffering=0) as handle:
        for _ in range(FSYNC_SAMPLES):
            begun = time.perf_counter()
            handle.write(bytes(4096))
            os.fsync(handle.fileno())
            took_ms.append((time.perf_counter() - begun) * 1000)
    file.unlink()
    return round(statistics.median(took_ms), 3)


def _git(root: Path, *arguments: str) -> str | None:
    git = shutil.which("git")
    if git is None:
        return None
    done = subprocess.run([git, *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _file_system(folder: Path) -> str:
    mounts = [each for each in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else "unknown"
