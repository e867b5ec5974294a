"""Filling a store in pieces, each checked, and the throughput of each: how publishing fares as the store grows.

The requests of a piece are built before it is sent, so the generator costs little while the clock runs. Meanwhile the
server is idle, or busy with its own upkeep: a load that never pauses would be harder on it.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench.events import EventPlan
from bench.load_report import LoadReport
from bench.peers.peer import Peer
from bench.processes import cpu_s, disk_bytes, watched

TOPICS: Final = 5
FILL_CONNECTIONS: Final = 8
FILL_EVENTS_PER_S_MIN: Final = 10_000
"""A piece slower than this is given up, so that a run is bounded in time."""
FRESH_PIECES: Final = 3
"""The median of so many first pieces, and of so many last ones, makes the ratio."""


@dataclass(frozen=True, slots=True)
class Piece:
    """`size`: events in the store before it."""

    size: int
    report: LoadReport

    def figures(self) -> dict[str, float]:
        return {
            "size": self.size,
            "events": self.report.events,
            "events_per_s": self.report.stored_per_s,
            "batch_ms_p50": self.report.latency_ms.get("p50", 0.0),
            "batch_ms_max": self.report.latency_ms.get("max", 0.0),
        }


def pieces(peer: Peer, events: int | None, piece_events: int, until: Callable[[], bool]) -> Iterator[Piece]:
    """Publishes piece after piece, one at least: until there are `events` (None: no bound), or `until()`."""
    size = 0
    connections = peer.batch_connections or FILL_CONNECTIONS
    while events is None or size < events:
        count = piece_events if events is None else min(piece_events, events - size)
        plan = EventPlan(count, 1000, secrets.randbits(48), topics=TOPICS)
        report = peer.load(plan, connections, 30 + count / FILL_EVENTS_PER_S_MIN)
        yield Piece(size, report)
        size += report.events_new
        if report.faults or until():
            return


def progress(what: str, total: int | None) -> Progress:
    """A bar on stderr, with one task; without a terminal, nothing."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty(), transient=True)
    bar.add_task(what, total=total)
    return bar


def measure_growth(peer: Peer, seconds: float, piece_events: int, folder: Path) -> dict[str, Any]:
    """Publishes to a fresh store for `seconds` in all, the building of requests included. The folder is removed."""
    folder.mkdir(parents=True)
    found: dict[str, Any] = {"faults": [], "pieces": []}
    try:
        peer.start(folder)
        deadline = time.monotonic() + seconds
        with watched(peer.processes) as usage, progress(f"{peer.name} grows", None) as bar:
            for piece in pieces(peer, None, piece_events, lambda: time.monotonic() > deadline):
                found["pieces"].append(piece.figures())
                found["faults"] += piece.report.faults
                bar.advance(bar.task_ids[0], piece.report.events)
        found["events"] = peer.stored_events()
        acknowledged = sum(piece["events"] for piece in found["pieces"])
        if found["events"] != acknowledged:
            found["faults"].append(f"holds {found['events']} events, acknowledged {acknowledged}")
        disk = disk_bytes([path for part in peer.disk_parts(folder).values() for path in part])
        peer.stop()
    finally:
        peer.kill()
        shutil.rmtree(folder, ignore_errors=True)
    rates = [piece["events_per_s"] for piece in found["pieces"]]
    found["fresh_events_per_s"] = median(rates[:FRESH_PIECES])
    found["grown_events_per_s"] = median(rates[-FRESH_PIECES:])
    found["grown_of_fresh"] = found["grown_events_per_s"] / found["fresh_events_per_s"]
    found["batch_ms_max"] = max(piece["batch_ms_max"] for piece in found["pieces"])
    found["disk_bytes_per_event_raw"] = disk / max(1, found["events"])
    found["rss_mb_peak"] = usage.rss_bytes_peak / 1e6
    return found


def fill(peer: Peer, size: int, piece_events: int, found: dict[str, Any]) -> None:
    """Fills a fresh store to `size`; throughput is that of the time in which something was being sent."""
    cpu_before_s = cpu_s(peer.processes)
    reports: list[LoadReport] = []
    found["pieces"] = []
    with progress(f"filling to {size:,}", size) as bar:
        for piece in pieces(peer, size, piece_events, lambda: False):
            reports.append(piece.report)
            found["pieces"].append(piece.figures())
            found["faults"] += piece.report.faults
            bar.advance(bar.task_ids[0], piece.report.events)
    stored = sum(report.events_new for report in reports)
    if stored != size:
        found["faults"].append(f"filled to {stored} events only")
    found["json_bytes_per_event"] = sum(report.bytes_sent for report in reports) / max(1, stored)
    found["fill_events_per_s"] = stored / sum(report.settled_s for report in reports)
    found["fill_batch_ms_max"] = max(report.latency_ms.get("max", 0.0) for report in reports)
    found["fill_cpu_us_per_event"] = (cpu_s(peer.processes) - cpu_before_s) / max(1, stored) * 1e6
