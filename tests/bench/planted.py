"""A server that keeps the part of the HTTP contract that generators use, in memory, with one planted fault."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


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
        event = self.server.stored.get((asked.get("topic", ""), asked.get("event_id", "")))
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
