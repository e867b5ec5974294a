"""What must not slow down as the store grows: reads, totals, opening; and disk per event once all is compacted."""

from __future__ import annotations

import http.client
import json
import random
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from bench.events import EventPlan, topic_names
from bench.growth import FILL_CONNECTIONS, FILL_EVENTS_PER_S_MIN, TOPICS, fill
from bench.load_report import percentiles_ms
from bench.peers.over_http import HttpPeer
from bench.processes import disk_bytes, rss_bytes, wait_until_quiet, watched

PAGE_EVENTS: Final = 1000
CRASH_EVENTS_MAX: Final = 200_000


@dataclass(frozen=True, slots=True)
class ReadBudget:
    """How long each kind of read is repeated: the first bound reached ends it."""

    samples_max: int = 200
    seconds_max: float = 5.0


class Reader:
    """One connection kept open; every answer is read to its end within the measured time."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def get(self, target: str) -> tuple[int, bytes]:
        """Latency in nanoseconds, and the body. Raises AssertionError unless the status is 200."""
        begun_ns = time.perf_counter_ns()
        self.connection.request("GET", target)
        answer = self.connection.getresponse()
        content = answer.read()
        took_ns = time.perf_counter_ns() - begun_ns
        assert answer.status == 200, f"{target}: {answer.status} {content[:300]!r}"
        return took_ns, content

    def timed(self, target: Callable[[], str], budget: ReadBudget, check: Callable[[bytes], bool]) -> dict[str, float]:
        """Percentiles in ms of repeated reads; every answer must pass `check` (outside the measured time)."""
        latencies_ns: list[int] = []
        deadline = time.perf_counter() + budget.seconds_max
        while len(latencies_ns) < budget.samples_max and (time.perf_counter() < deadline or not latencies_ns):
            asked = target()
            took_ns, content = self.get(asked)
            assert check(content), f"{asked} gave a wrong answer: {content[:200]!r}"
            latencies_ns.append(took_ns)
        return {**percentiles_ms(latencies_ns), "samples": len(latencies_ns)}

    def export(self) -> tuple[int, int, float]:
        """Reads all events as NDJSON: events, bytes, seconds."""
        begun = time.perf_counter()
        self.connection.request("GET", "/events?format=ndjson")
        answer = self.connection.getresponse()
        assert answer.status == 200, f"export: {answer.status}"
        lines = size = 0
        while chunk := answer.read(1 << 20):
            lines += chunk.count(b"\n")
            size += len(chunk)
        return lines, size, time.perf_counter() - begun

    def close(self) -> None:
        self.connection.close()


@dataclass(frozen=True, slots=True)
class ScaleEffort:
    """How much of each thing is done at a size."""

    budget: ReadBudget = ReadBudget()
    quiet_s_max: float = 600.0
    piece_events: int = 1_000_000
    further_events: int = 400_000


def measure_scale(peer: HttpPeer, size: int, folder: Path, effort: ScaleEffort) -> dict[str, Any]:
    """Fills a fresh store to `size` events, then measures. The folder is removed afterwards."""
    folder.mkdir(parents=True)
    found: dict[str, Any] = {"events": size, "faults": []}
    try:
        found["open_empty_s"] = peer.start(folder)
        _fill(peer, size, folder, found, effort)
        _read(peer, size, found, effort.budget)
        grown = _publish_more(peer, size, found, effort)
        _reopen(peer, grown, folder, found)
    finally:
        peer.kill()
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _fill(peer: HttpPeer, size: int, folder: Path, found: dict[str, Any], effort: ScaleEffort) -> None:
    processes = peer.processes
    with watched(processes) as usage:
        fill(peer, size, effort.piece_events, found)
        found["disk_before_quiet"] = _disk_per_event(peer, folder, size)
        quiet, waited_s = wait_until_quiet(processes, effort.quiet_s_max)
    found["quiet_after_s"] = waited_s
    if not quiet:
        found["faults"].append(f"still busy {waited_s:.0f} s after the fill")
    found["cpu_us_per_event_until_quiet"] = usage.cpu_s / size * 1e6
    found["rss_mb_peak"] = usage.rss_bytes_peak / 1e6
    found["rss_mb_quiet"] = usage.rss_bytes_end / 1e6
    found["disk_quiet"] = _disk_per_event(peer, folder, size)


def _publish_more(peer: HttpPeer, size: int, found: dict[str, Any], effort: ScaleEffort) -> int:
    """Throughput at this size, from quiet; the slowest batch bounds the slowest group. Returns the size reached."""
    plan = EventPlan(effort.further_events, 1000, secrets.randbits(48), topics=TOPICS)
    with watched(peer.processes) as usage:
        report = peer.load(plan, FILL_CONNECTIONS, 30 + effort.further_events / FILL_EVENTS_PER_S_MIN)
    found["faults"] += report.faults
    found["seed"] = plan.seed
    found["further_events_per_s"] = report.stored_per_s
    found["further_batch_ms_p50"] = report.latency_ms.get("p50", 0.0)
    found["further_batch_ms_p99"] = report.latency_ms.get("p99", 0.0)
    found["further_batch_ms_max"] = report.latency_ms.get("max", 0.0)
    found["further_rss_mb_peak"] = usage.rss_bytes_peak / 1e6
    quiet, waited_s = wait_until_quiet(peer.processes, effort.quiet_s_max)
    if not quiet:
        found["faults"].append(f"still busy {waited_s:.0f} s after further events")
    return size + report.events_new


def _disk_per_event(peer: HttpPeer, folder: Path, events: int) -> dict[str, float]:
    parts = {name: disk_bytes(paths) / events for name, paths in peer.disk_parts(folder).items()}
    return {**parts, "total": sum(parts.values())}


def _read(peer: HttpPeer, size: int, found: dict[str, Any], budget: ReadBudget) -> None:
    rng = random.Random(size)
    reader = Reader(peer.port)
    topics = topic_names(TOPICS)
    page = min(PAGE_EVENTS, size // (2 * TOPICS))

    def offset() -> int:
        return rng.randrange(max(1, size - size // 2))

    def holds_page(content: bytes) -> bool:
        return len(json.loads(content)) == page

    keys: list[dict[str, str]] = []
    for _ in range(min(200, size)):
        (event,) = json.loads(reader.get(f"/events?after={rng.randrange(size)}&limit=1")[1])
        keys.append({"topic": event["topic"], "event_id": event["event_id"]})

    kinds: dict[str, tuple[Callable[[], str], Callable[[bytes], bool]]] = {
        "stats": (lambda: "/stats", lambda c: json.loads(c)["unique_processed"] == size),
        "page_first": (lambda: f"/events?limit={page}", holds_page),
        "page_anywhere": (lambda: f"/events?limit={page}&after={offset()}", holds_page),
        "page_last": (lambda: f"/events?limit={page}&order=desc", holds_page),
        "topic_page_first": (lambda: f"/events?topic={rng.choice(topics)}&limit={page}", holds_page),
        "topic_page_anywhere": (
            lambda: f"/events?topic={rng.choice(topics)}&limit={page}&after={offset()}",
            lambda c: 0 < len(json.loads(c)) <= page,
        ),
        "event_by_id": (lambda: f"/event?{urlencode(rng.choice(keys))}", lambda c: b'"payload"' in c),
    }
    found["reads_ms"] = {}
    try:
        for name, (target, check) in kinds.items():
            found["reads_ms"][name] = reader.timed(target, budget, check)
        with watched(peer.processes) as usage:
            lines, exported_bytes, export_s = reader.export()
    finally:
        reader.close()
    if lines != size:
        found["faults"].append(f"the export holds {lines} events, expected {size}")
    found["export_events_per_s"] = lines / export_s
    found["export_mb_per_s"] = exported_bytes / export_s / 1e6
    found["export_cpu_us_per_event"] = usage.cpu_s / size * 1e6
    found["export_rss_mb_peak"] = usage.rss_bytes_peak / 1e6


def _reopen(peer: HttpPeer, size: int, folder: Path, found: dict[str, Any]) -> None:
    """Opening after a clean stop, and after a kill -9 that follows the last of many acknowledged events at once."""
    found["stop_s"] = peer.stop()
    found["disk_stopped"] = _disk_per_event(peer, folder, size)
    found["open_after_stop_s"] = peer.start(folder)
    if peer.stored_events() != size:
        found["faults"].append(f"after a clean stop: {peer.stored_events()} events, expected {size}")
    more = min(CRASH_EVENTS_MAX, size)
    report = peer.load(EventPlan(more, 1000, secrets.randbits(48), topics=TOPICS), FILL_CONNECTIONS, 60.0)
    found["faults"] += report.faults
    peer.kill()
    found["open_after_kill_s"] = peer.start(folder)
    if peer.stored_events() != size + report.events_new:
        found["faults"].append(f"after kill -9: {peer.stored_events()} events, expected {size + report.events_new}")
    found["rss_mb_after_kill"] = rss_bytes(peer.processes()) / 1e6
    peer.stop()
