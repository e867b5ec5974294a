"""Whether a server that speaks the HTTP contract stored exactly what it acknowledged."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

from bench.events import Body
from bench.load_report import LoadReport

SAMPLES_MAX: Final = 50


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of the bodies that were sent."""

    acknowledged: Sequence[Body]
    doubtful: Sequence[Body] = ()
    """Refused, or never answered: perhaps stored."""
    accepted: int | None = None
    """Sum of `accepted` in the answers; None for a generator that does not read them."""


def get_json(url: str, target: str, timeout_s: float = 30.0) -> tuple[int, Any]:
    """Status and decoded body of a GET on a fresh connection."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if content else None
    finally:
        connection.close()


def check_stored(url: str, sent: Sent, report: LoadReport, before: dict[str, Any], settle_s: float) -> None:
    """Compares the growth of `/stats` since `before`, the sum of `accepted` and a sample of events with `sent`.

    Waits up to `settle_s` for the growth, and moves `report.settled_s` by what it waited."""
    waited_from = time.perf_counter()
    while True:
        after = get_json(url, "/stats")[1]
        unique = after["unique_processed"] - before["unique_processed"]
        received = after["received"] - before["received"]
        waited_s = time.perf_counter() - waited_from
        if (received >= report.events and unique >= report.events_new) or waited_s > settle_s:
            break
        time.sleep(0.02)
    if waited_s > 0.1:
        report.settled_s = report.elapsed_s + waited_s
    if sent.accepted is not None:
        report.expect("sum of accepted", sent.accepted, report.events)
    if not sent.doubtful:
        report.expect("/stats unique_processed", unique, report.events_new)
        report.expect("/stats received", received, report.events)
    else:
        most = report.events + sum(body.events for body in sent.doubtful)
        if not report.events_new <= unique <= most or received > most:
            report.faults.append(f"stored {unique}, acknowledged {report.events_new}, attempted {most}")
    total = after["unique_processed"] + after["duplicate_dropped"]
    report.expect("/stats unique_processed + duplicate_dropped", total, after["received"])
    _check_samples(url, sent.acknowledged, report)


def _check_samples(url: str, acknowledged: Sequence[Body], report: LoadReport) -> None:
    rng = random.Random(len(acknowledged))
    chosen = rng.sample(acknowledged, min(SAMPLES_MAX, len(acknowledged)))
    differing = 0
    for body in chosen:
        sent = json.loads(body.sample)
        status, stored = get_json(url, f"/event?topic={quote(sent['topic'])}&event_id={quote(sent['event_id'])}")
        if status != 200 or any(stored[name] != sent[name] for name in sent):
            differing += 1
    if differing:
        report.faults.append(f"{differing} of {len(chosen)} events fetched by id are missing or differ")
    else:
        report.checks.append(f"{len(chosen)} events fetched by id equal what was sent")
