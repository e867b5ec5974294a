"""Publishing: what is measured against what, and one run of it on a fresh store."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

from bench import wrk
from bench.events import EventPlan, IdKind
from bench.load_report import LoadReport
from bench.peers.over_http import HttpPeer
from bench.peers.peer import Peer
from bench.processes import disk_bytes, watched

WARM_UP_EVENTS: Final = 200


@dataclass(frozen=True, slots=True)
class PublishCase:
    """A way of publishing."""

    batch: int
    connections: int
    events: int
    dup: float = 0.0
    topics: int = 5
    ids: IdKind = "random"
    seconds: float = 30.0
    generator: Literal["python", "wrk"] = "python"

    def scaled(self, batch_events: int, single_events: int) -> PublishCase:
        return replace(self, events=min(self.events, single_events if self.batch == 1 else batch_events))


@dataclass(frozen=True, slots=True)
class Entrant:
    """One row of a contest: a peer, by name, in a case."""

    label: str
    peer: str
    case: PublishCase


@dataclass(frozen=True, slots=True)
class Contest:
    """Entrants whose runs alternate. `baseline`: the label that the others' throughput is given as a ratio of."""

    name: str
    title: str
    entrants: tuple[Entrant, ...]
    baseline: str


BATCHES: Final = PublishCase(batch=1000, connections=8, events=400_000)
SINGLES: Final = PublishCase(batch=1, connections=64, events=60_000)
VARIANTS: Final = {
    "dup20": ("20 % repeats", replace(BATCHES, dup=0.2)),
    "dup50": ("50 % repeats", replace(BATCHES, dup=0.5)),
    "topics5000": ("5,000 topics instead of 5", replace(BATCHES, topics=5000)),
    "ordered": ("ordered ids (UUIDv7)", replace(BATCHES, ids="ordered")),
}
PLAIN: Final = "plain"


def _peers(case: PublishCase, *names: str) -> tuple[Entrant, ...]:
    return tuple(Entrant(name, name, case) for name in names)


_DATABASES: Final = ("postgres", "postgres-text", "redis", "jetstream", "jetstream-not-durable", "simple")
CONTESTS: Final = (
    Contest("batches", "batches of 1000", _peers(BATCHES, "hello", "sekali", *_DATABASES), "postgres"),
    *(
        Contest(name, f"batches, {what}", (Entrant(PLAIN, "sekali", BATCHES), Entrant(name, "sekali", case)), PLAIN)
        for name, (what, case) in VARIANTS.items()
    ),
    Contest("batches-wrk", "batches by wrk", _peers(replace(BATCHES, generator="wrk"), "hello", "sekali"), "hello"),
    Contest("singles", "single events", _peers(SINGLES, "hello", "sekali", *_DATABASES), "hello"),
    Contest(
        "singles-wrk",
        "single events by wrk",
        _peers(replace(SINGLES, events=200_000, generator="wrk"), "hello", "sekali"),
        "hello",
    ),
    Contest(
        "slow-disk",
        "batches on a disk with a slower sync (0 ms through the same VFS)",
        _peers(BATCHES, "sekali-sync0ms", "sekali-sync5ms", "sekali-sync20ms"),
        "sekali-sync0ms",
    ),
)


def cannot_run(entrant: Entrant, peer: Peer) -> str | None:
    """Why this row is skipped here; None when it is not."""
    return peer.missing() or (wrk.missing() if entrant.case.generator == "wrk" else None)


def measure_publish(case: PublishCase, peer: Peer, folder: Path) -> dict[str, Any]:
    """One run on a fresh store in `folder`, which is removed afterwards. `faults` lists every check that failed."""
    single = case.batch == 1
    bound = peer.single_events_max if single else peer.batch_events_max
    events = min(case.events, bound) if bound else case.events
    connections = (peer.single_connections if single else peer.batch_connections) or case.connections
    plan = EventPlan(events, case.batch, secrets.randbits(48), case.dup, case.topics, case.ids)
    folder.mkdir(parents=True)
    try:
        start_s = peer.start(folder)
        warm_up = peer.load(replace(plan, events=WARM_UP_EVENTS, batch=1, seed=plan.seed + 1, dup=0.0), 4, 10.0)
        with watched(peer.processes) as usage:
            report = _generator(case, peer, folder)(plan, connections, case.seconds)
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
        "batch": case.batch,
        "connections": connections,
        "generator": case.generator,
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


def _generator(case: PublishCase, peer: Peer, folder: Path) -> Callable[[EventPlan, int, float], LoadReport]:
    if case.generator == "python":
        return peer.load
    assert isinstance(peer, HttpPeer), "wrk speaks HTTP only"
    return partial(wrk.wrk_load, peer.url, folder=folder, verify=peer.stores)
