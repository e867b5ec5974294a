"""The load generator must see every lie: it is run against servers that lose, double, alter, refuse and hang up."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from bench.events import EventPlan
from bench.load import LoadReport, percentiles_ms, run_load


class Contract(ThreadingHTTPServer):
    """The part of the HTTP contract that the generator uses, in memory, with one planted fault."""

    daemon_threads = True

    def __init__(self, fault: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault = fault
        self.lock = threading.Lock()
        self.requests = 0
        self.received = 0
        self.unique = 0
        self.stored: dict[tuple[str, str], dict[str, Any]] = {}

    def publish(self, events: list[dict[str, Any]]) -> int:
        """Returns how many are acknowledged."""
        with self.lock:
            for event in events:
                self.received += 1
                key = (event["topic"], event["event_id"])
                if self.fault == "loses" and self.received % 100 == 0:
                    continue
                if key not in self.stored or self.fault == "doubles":
                    self.unique += 1
                    kept = {**event, "payload": {}} if self.fault == "alters" else event
                    self.stored.setdefault(key, kept)
        return len(events) - (self.fault == "accepts fewer")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536  # head and body in one write: two would wait for the client's delayed acknowledgement
    server: Contract

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests += 1
            number = self.server.requests
        if self.server.fault == "refuses" and number == 3:
            self.answer(503, {"code": "overloaded"})
            return
        accepted = self.server.publish(body if isinstance(body, list) else [body])
        if self.server.fault == "hangs up" and number == 3:
            self.close_connection = True
            return
        self.answer(200, {"accepted": accepted, "queued": accepted})

    def do_GET(self) -> None:
        if self.path == "/stats":
            dropped = self.server.received - self.server.unique
            if self.server.fault == "miscounts":
                dropped += 1
            counters = {"received": self.server.received, "unique_processed": self.server.unique}
            self.answer(200, {**counters, "duplicate_dropped": dropped})
            return
        asked = dict(parse_qsl(urlsplit(self.path).query))
        event = self.server.stored.get((asked["topic"], asked["event_id"]))
        self.answer(200 if event else 404, event or {})

    def answer(self, status: int, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silent: the output of a test is its failure."""


@contextmanager
def serving(fault: str) -> Iterator[str]:
    server = Contract(fault)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def load(url: str, plan: EventPlan, **more: Any) -> LoadReport:
    return run_load(url, plan, connections=3, seconds=20.0, settle_s=0.2, **more)


@pytest.mark.parametrize("batch", [1, 50])
@pytest.mark.parametrize("dup", [0.0, 0.3])
def test_an_honest_server_passes_every_check(seed: int, batch: int, dup: float) -> None:
    with serving("none") as url:
        report = load(url, EventPlan(600, batch, seed, dup=dup))
    assert report.faults == []
    assert report.events == 600
    assert (report.events_new == 600) is (dup == 0.0)
    assert report.stored_per_s > 0
    assert set(report.latency_ms) == {"p50", "p90", "p99", "max"}


def test_requests_built_between_sends_are_the_same_requests(seed: int) -> None:
    with serving("none") as url:
        report = load(url, EventPlan(600, 50, seed), prebuild_events_max=10)
    assert report.sound
    assert not report.prebuilt


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("loses", "unique_processed"),
        ("alters", "fetched by id"),
        ("accepts fewer", "sum of accepted"),
        ("miscounts", "duplicate_dropped"),
        ("refuses", "refused"),
        ("hangs up", "not answered"),
    ],
)
def test_a_planted_fault_is_reported(seed: int, fault: str, told: str) -> None:
    with serving(fault) as url:
        report = load(url, EventPlan(600, 20, seed))
    assert any(told in line for line in report.faults), report.faults


def test_storing_a_repeat_twice_is_reported(seed: int) -> None:
    with serving("doubles") as url:
        report = load(url, EventPlan(600, 20, seed, dup=0.3))
    assert any("unique_processed" in line for line in report.faults), report.faults


def test_what_was_not_answered_may_or_may_not_be_stored(seed: int) -> None:
    with serving("hangs up") as url:
        report = load(url, EventPlan(600, 20, seed))
    assert report.unknown == 1
    assert report.events == 580
    assert len(report.faults) == 1


def test_percentiles_are_of_the_ordered_samples() -> None:
    shuffled = [n * 1_000_000 for n in (5, 1, 4, 2, 3)]
    assert percentiles_ms(shuffled) == {"p50": 3.0, "p90": 5.0, "p99": 5.0, "max": 5.0}
    assert percentiles_ms([]) == {}
