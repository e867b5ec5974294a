"""Publishing: batches and single events, fresh store each run, the peers in turn."""

from __future__ import annotations

import secrets
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bench.events import EventPlan, IdKind
from bench.peers.peer import Peer
from bench.processes import disk_bytes, watched

WARM_UP_EVENTS: Final = 200


@dataclass(frozen=True, slots=True)
class PublishCase:
    """A way of publishing. `peers`: who takes part, by name."""

    name: str
    title: str
    batch: int
    connections: int
    events: int
    peers: tuple[str, ...]
    dup: float = 0.0
    topics: int = 5
    ids: IdKind = "random"
    seconds: float = 30.0

    def scaled(self, events: int) -> PublishCase:
        return replace(self, events=min(self.events, events))


BATCHES: Final = PublishCase("batches", "batches of 1000, 8 connections", 1000, 8, 400_000, ("sekali", "simple"))
SINGLES: Final = PublishCase("singles", "single events, 64 connections", 1, 64, 60_000, ("hello", "sekali", "simple"))
PUBLISH_CASES: Final = (
    BATCHES,
    replace(BATCHES, name="batches-dup20", title="batches, 20 % repeats", dup=0.2, peers=("sekali",)),
    replace(BATCHES, name="batches-dup50", title="batches, 50 % repeats", dup=0.5, peers=("sekali",)),
    replace(BATCHES, name="batches-topics5000", title="batches, 5,000 topics", topics=5000, peers=("sekali",)),
    replace(BATCHES, name="batches-ordered", title="batches, ordered ids", ids="ordered", peers=("sekali",)),
    SINGLES,
)


def measure_publish(case: PublishCase, peer: Peer, folder: Path) -> dict[str, Any]:
    """One run on a fresh store in `folder`, which is removed afterwards. `faults` lists every check that failed."""
    bound = peer.single_events_max if case.batch == 1 else peer.batch_events_max
    events = min(case.events, bound) if bound else case.events
    plan = EventPlan(events, case.batch, secrets.randbits(48), case.dup, case.topics, case.ids)
    folder.mkdir(parents=True)
    try:
        start_s = peer.start(folder)
        warm_up = peer.load(replace(plan, events=WARM_UP_EVENTS, batch=1, seed=plan.seed + 1, dup=0.0), 4, 10.0)
        with watched(peer.processes()) as usage:
            report = peer.load(plan, case.connections, case.seconds)
        stored = peer.stored_events()
        disk = disk_bytes([path for part in peer.disk_parts(folder).values() for path in part])
        stop_s = peer.stop()
    finally:
        peer.kill()
        shutil.rmtree(folder, ignore_errors=True)
    faults = [*warm_up.faults, *report.faults]
    expected = WARM_UP_EVENTS + report.events_new
    if peer.stores and stored != expected and not report.refused and not report.unknown:
        faults.append(f"holds {stored} events, acknowledged {expected}")
    if report.events < events:
        faults.append(f"only {report.events} of {events} events were acknowledged within {case.seconds:.0f} s")
    return {
        "seed": plan.seed,
        "events": report.events,
        "events_new": report.events_new,
        "seconds": round(report.settled_s, 4),
        "events_per_s": report.stored_per_s,
        "requests_per_s": report.requests_per_s,
        "mb_per_s": report.bytes_sent / report.elapsed_s / 1e6,
        **{f"{name}_ms": value for name, value in report.latency_ms.items()},
        "cpu_us_per_event": usage.cpu_s / report.events * 1e6 if report.events else 0.0,
        "cores": usage.cpu_s / report.settled_s,
        "rss_mb_start": usage.rss_bytes_start / 1e6,
        "rss_mb_peak": usage.rss_bytes_peak / 1e6,
        "disk_bytes_per_event_raw": disk / stored if stored else 0.0,
        "generator_cores": report.generator_cpu_s / report.elapsed_s,
        "start_s": start_s,
        "stop_s": stop_s,
        "checks": report.checks,
        "faults": faults,
    }
