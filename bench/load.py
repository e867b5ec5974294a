"""A load generator for anything that speaks the HTTP contract, and the check of what it was answered.

    python -m bench.load --url http://127.0.0.1:8080 --batch 1000 --connections 8 --events 200000

A closed loop: each connection sends its next request when the last one is answered. Requests are built before the
clock starts (above --prebuild-max events: between sends, and the report says so). Afterwards the growth of `/stats` is
compared with what was acknowledged, and some of the sent events are fetched and compared; the exit code is 1 if
anything is missing, doubled or different.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import json
import random
import re
import resource
import secrets
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

from bench.events import Body, EventPlan, bodies

RESPONSE_BYTES_MAX: Final = 1 << 20
SAMPLES_MAX: Final = 50
_STATUS_AND_LENGTH: Final = re.compile(rb"HTTP/1\.1 (\d{3})(?:[^\n]*\n)+?content-length: *(\d+)\r\n", re.IGNORECASE)
_ACCEPTED: Final = re.compile(rb'"accepted": ?(\d+)')


@dataclass(slots=True)
class LoadReport:
    """What a load run saw. Times in seconds unless named otherwise; latencies of answered requests."""

    plan: dict[str, Any]
    connections: int
    prebuilt: bool
    elapsed_s: float = 0.0
    """First byte sent to last answer."""
    settled_s: float = 0.0
    """First byte sent until `/stats` shows all that was acknowledged: later where answers come before the store."""
    requests: int = 0
    events: int = 0
    """Acknowledged, repeats included."""
    events_new: int = 0
    """Acknowledged and not sent before in this run."""
    bytes_sent: int = 0
    answered_per_s: float = 0.0
    stored_per_s: float = 0.0
    """Acknowledged events over settled_s: the figure to compare."""
    requests_per_s: float = 0.0
    latency_ms: dict[str, float] = field(default_factory=dict)
    generator_cpu_s: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    unknown: int = 0
    """Requests without an answer: perhaps stored."""
    checks: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.faults


@dataclass(slots=True)
class _Connection:
    sock: socket.socket
    body: Body | None = None
    sent_ns: int = 0
    rest: memoryview | None = None
    """What of the request the socket has not taken yet."""
    received: bytes = b""


class Loop:
    """Sends bodies over `connections` sockets until they run out or `seconds` pass."""

    def __init__(self, host: str, port: int, path: str, connections: int) -> None:
        self.head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
        self.selector = selectors.DefaultSelector()
        self.connections: list[_Connection] = []
        for _ in range(connections):
            sock = socket.create_connection((host, port), timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setblocking(False)
            connection = _Connection(sock)
            self.connections.append(connection)
            self.selector.register(sock, selectors.EVENT_READ, connection)
        self.latencies_ns: list[int] = []
        self.acknowledged: list[Body] = []
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.first_refusals: list[str] = []
        self.unknown: list[Body] = []
        self.refused_bodies: list[Body] = []

    def request(self, body: Body) -> bytes:
        return f"{self.head}{len(body.data)}\r\n\r\n".encode() + body.data

    def run(self, requests: Iterator[tuple[Body, bytes]], seconds: float, answer_s: float) -> float:
        """Returns the seconds from the first byte sent to the last answer. After `seconds` nothing new is sent; what
        is then unanswered for `answer_s` more counts as unknown."""
        self.requests = requests
        self.busy = 0
        started_ns = time.perf_counter_ns()
        self.stop_ns = started_ns + int(seconds * 1e9)
        give_up_ns = self.stop_ns + int(answer_s * 1e9)
        for connection in self.connections:
            self._send_next(connection)
        last_ns = started_ns
        while self.busy:
            ready = self.selector.select(timeout=1.0)
            last_ns = time.perf_counter_ns()
            for key, mask in ready:
                connection = key.data
                if mask & selectors.EVENT_WRITE:
                    self._send_rest(connection)
                if mask & selectors.EVENT_READ:
                    self._receive(connection)
            if not ready and last_ns > give_up_ns:
                break
        for connection in self.connections:
            if connection.body is not None:
                self.unknown.append(connection.body)
            connection.sock.close()
        self.selector.close()
        return (last_ns - started_ns) / 1e9

    def _send_next(self, connection: _Connection) -> None:
        connection.body = None
        now_ns = time.perf_counter_ns()
        if now_ns >= self.stop_ns:
            return
        pair = next(self.requests, None)
        if pair is None:
            return
        connection.body, data = pair
        self.busy += 1
        connection.sent_ns = time.perf_counter_ns()
        try:
            taken = connection.sock.send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            self._lost(connection)
            return
        if taken < len(data):
            connection.rest = memoryview(data)[taken:]
            self.selector.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def _send_rest(self, connection: _Connection) -> None:
        if connection.rest is None:
            return
        try:
            taken = connection.sock.send(connection.rest)
        except BlockingIOError:
            return
        except OSError:
            self._lost(connection)
            return
        connection.rest = connection.rest[taken:]
        if not connection.rest:
            connection.rest = None
            self.selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost(connection)
            return
        if connection.received:
            data = connection.received + data
        match = _STATUS_AND_LENGTH.match(data)
        split = data.find(b"\r\n\r\n")
        if match is None or split < 0 or len(data) < split + 4 + int(match[2]):
            connection.received = data
            if (split >= 0 and match is None) or len(data) > RESPONSE_BYTES_MAX:
                self._lost(connection)
            return
        connection.received = b""
        self._answered(connection, match[1], data[split + 4 :])
        if b"connection: close" in data[:split].lower():
            self._drop(connection)
        else:
            self._send_next(connection)

    def _answered(self, connection: _Connection, status: bytes, content: bytes) -> None:
        body = connection.body
        assert body is not None, "an answer without a request"
        self.busy -= 1
        connection.body = None
        if status == b"200":
            self.latencies_ns.append(time.perf_counter_ns() - connection.sent_ns)
            self.acknowledged.append(body)
            accepted = _ACCEPTED.search(content)
            self.accepted += int(accepted[1]) if accepted else 0
            return
        self.refused[status.decode()] += 1
        self.refused_bodies.append(body)
        if len(self.first_refusals) < 3:
            self.first_refusals.append(content[:300].decode("utf-8", "replace"))

    def _lost(self, connection: _Connection) -> None:
        """The server closed or broke the connection: whether its request was stored is not known."""
        if connection.body is not None:
            self.unknown.append(connection.body)
            connection.body = None
            self.busy -= 1
        self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            self.selector.unregister(connection.sock)
            connection.sock.close()


def percentiles_ms(latencies_ns: list[int]) -> dict[str, float]:
    """p50, p90, p99 and the largest, in milliseconds; empty without samples."""
    if not latencies_ns:
        return {}
    ordered = sorted(latencies_ns)
    at = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
    return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * q))] / 1e6, 3) for name, q in at.items()}


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


def run_load(
    url: str,
    plan: EventPlan,
    *,
    connections: int,
    seconds: float = 60.0,
    settle_s: float = 60.0,
    path: str = "/publish",
    verify: bool = True,
    prebuild_events_max: int = 1_000_000,
) -> LoadReport:
    """Sends the plan and checks it. `verify=False` is for servers that store nothing (the bare yardstick)."""
    parts = urlsplit(url)
    before = get_json(url, "/stats")[1] if verify else {}
    loop = Loop(parts.hostname or "127.0.0.1", parts.port or 80, path, connections)
    stream: Iterator[tuple[Body, bytes]] = ((body, loop.request(body)) for body in bodies(plan))
    prebuilt = plan.events <= prebuild_events_max
    if prebuilt:
        stream = iter(list(stream))
    gc.collect()
    gc.disable()
    cpu_before_s = _cpu_s()
    try:
        elapsed_s = loop.run(stream, seconds, answer_s=30.0)
    finally:
        gc.enable()
    report = LoadReport(plan=asdict(plan), connections=connections, prebuilt=prebuilt, elapsed_s=elapsed_s)
    report.generator_cpu_s = round(_cpu_s() - cpu_before_s, 3)
    report.requests = len(loop.acknowledged)
    report.events = sum(body.events for body in loop.acknowledged)
    report.events_new = sum(body.new for body in loop.acknowledged)
    report.bytes_sent = sum(len(body.data) for body in loop.acknowledged)
    report.latency_ms = percentiles_ms(loop.latencies_ns)
    report.refused = dict(loop.refused)
    report.unknown = len(loop.unknown)
    if loop.refused:
        report.faults.append(f"{sum(loop.refused.values())} requests refused, the first: {loop.first_refusals}")
    if loop.unknown:
        report.faults.append(f"{len(loop.unknown)} requests were not answered")
    report.settled_s = elapsed_s
    if verify:
        _check(url, loop, report, before, settle_s)
    report.answered_per_s = report.events / elapsed_s
    report.requests_per_s = report.requests / elapsed_s
    report.stored_per_s = report.events / report.settled_s
    return report


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _check(url: str, loop: Loop, report: LoadReport, before: dict[str, Any], settle_s: float) -> None:
    """Compares the growth of `/stats`, the sum of `accepted` and a sample of events with what was acknowledged."""
    doubtful = [*loop.unknown, *loop.refused_bodies]
    all_acknowledged = not doubtful
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
    _expect(report, "sum of accepted", loop.accepted, report.events)
    if all_acknowledged:
        _expect(report, "/stats unique_processed", unique, report.events_new)
        _expect(report, "/stats received", received, report.events)
    else:
        most = report.events + sum(body.events for body in doubtful)
        if not report.events_new <= unique <= most or received > most:
            report.faults.append(f"stored {unique}, acknowledged {report.events_new}, attempted {most}")
    total = after["unique_processed"] + after["duplicate_dropped"]
    _expect(report, "/stats unique_processed + duplicate_dropped", total, after["received"])
    _check_samples(url, loop, report)


def _expect(report: LoadReport, what: str, seen: int, wanted: int) -> None:
    (report.checks if seen == wanted else report.faults).append(f"{what}: {seen}, expected {wanted}")


def _check_samples(url: str, loop: Loop, report: LoadReport) -> None:
    rng = random.Random(len(loop.acknowledged))
    chosen = rng.sample(loop.acknowledged, min(SAMPLES_MAX, len(loop.acknowledged)))
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


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8080")
    add("--path", default="/publish")
    add("--batch", "--batches", type=int, default=1000, help="events in a request; 1 sends bare objects")
    add("--connections", type=int, default=8)
    add("--events", type=int, default=200_000, help="events to send in all, repeats included")
    add("--seconds", type=float, default=60.0, help="send nothing new after this time")
    add("--settle", type=float, default=60.0, help="longest wait for /stats to show all that was acknowledged")
    add("--dup", type=float, default=0.0, help="share of events that repeat an earlier one of this run")
    add("--topics", type=int, default=5)
    add("--ids", choices=("random", "ordered"), default="random", help="UUIDv4 or UUIDv7")
    add("--seed", type=int, default=None, help="the same seed gives the same ids; random by default")
    add("--prebuild-max", type=int, default=1_000_000, help="above this many events, build requests between sends")
    add("--no-verify", action="store_true", help="for a server that stores nothing")
    add("--json", action="store_true", help="print the report as one line of JSON")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    seed = given.seed if given.seed is not None else secrets.randbits(48)
    plan = EventPlan(given.events, given.batch, seed, given.dup, given.topics, given.ids)
    report = run_load(
        given.url,
        plan,
        connections=given.connections,
        seconds=given.seconds,
        settle_s=given.settle,
        path=given.path,
        verify=not given.no_verify,
        prebuild_events_max=given.prebuild_max,
    )
    if given.json:
        print(json.dumps(asdict(report)))
        return 0 if report.sound else 1
    latency = "  ".join(f"{name} {value:.2f}" for name, value in report.latency_ms.items())
    print(f"seed {seed}, {report.requests:,} requests, {report.events:,} events ({report.events_new:,} new)")
    print(f"{report.stored_per_s:,.0f} events/s stored  ({report.answered_per_s:,.0f} answered, ", end="")
    print(f"{report.requests_per_s:,.0f} requests/s, {report.bytes_sent / report.elapsed_s / 1e6:,.1f} MB/s)")
    print(f"latency ms: {latency}")
    busy = report.generator_cpu_s / report.elapsed_s
    print(f"{report.elapsed_s:.2f} s; generator used {busy:.0%} of a core", end="")
    print("" if report.prebuilt else ", building requests between sends")
    for line in report.checks:
        print(f"  ok    {line}")
    for line in report.faults:
        print(f"  FAULT {line}")
    return 0 if report.sound else 1


if __name__ == "__main__":
    sys.exit(main())
