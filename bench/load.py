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
import json
import re
import selectors
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import urlsplit

from bench.check import Sent, check_stored, get_json
from bench.events import Body, EventPlan, bodies
from bench.generator import add_plan_arguments, plan_of
from bench.load_report import LoadReport, own_cpu_s, percentiles_ms

RESPONSE_BYTES_MAX: Final = 1 << 20
_STATUS_AND_LENGTH: Final = re.compile(rb"HTTP/1\.1 (\d{3})(?:[^\n]*\n)+?content-length: *(\d+)\r\n", re.IGNORECASE)
_ACCEPTED: Final = re.compile(rb'"accepted": ?(\d+)')


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
    cpu_before_s = own_cpu_s()
    try:
        elapsed_s = loop.run(stream, seconds, answer_s=30.0)
    finally:
        gc.enable()
    report = LoadReport(plan=asdict(plan), connections=connections, prebuilt=prebuilt, elapsed_s=elapsed_s)
    report.generator_cpu_s = round(own_cpu_s() - cpu_before_s, 3)
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
        sent = Sent(loop.acknowledged, [*loop.unknown, *loop.refused_bodies], loop.accepted)
        check_stored(url, sent, report, before, settle_s)
    report.set_rates()
    return report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load", description=(__doc__ or "").split("\n\n")[0])
    add_plan_arguments(parser)
    add = parser.add_argument
    add("--url", default="http://127.0.0.1:8080")
    add("--path", default="/publish")
    add("--settle", type=float, default=60.0, help="longest wait for /stats to show all that was acknowledged")
    add("--prebuild-max", type=int, default=1_000_000, help="above this many events, build requests between sends")
    add("--no-verify", action="store_true", help="for a server that stores nothing")
    add("--json", action="store_true", help="print the report as one line of JSON")
    return parser.parse_args()


def main() -> int:
    given = _arguments()
    plan = plan_of(given)
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
    print(f"seed {plan.seed}, {report.requests:,} requests, {report.events:,} events ({report.events_new:,} new)")
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
