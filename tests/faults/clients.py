"""Publishing clients that write down what they did, and the reading back of everything after a recovery."""

from __future__ import annotations

import http.client
import json
import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.serving import Server
from tests.support.history import Attempt, History, Stored, check_history, read_histories

ANSWER_S_MAX = 20.0
PAGE = 10_000
BETWEEN_TRIES_S = 0.01
SHARED_KEYS = 400
"""Of a window that moves on with every request, so that there are always keys to race for."""
LONG_BATCH_EVENTS = 2_100
"""Of which a group is made that is prepared beside those of short requests."""


class Kind(NamedTuple):
    """What an answer looks like from outside."""

    status: int
    content_type: str | None
    tells_when: bool
    """It has a Retry-After of some seconds."""


def kind_of(response: http.client.HTTPResponse) -> Kind:
    retry_after = response.getheader("retry-after", "")
    return Kind(response.status, response.getheader("content-type"), retry_after.isdigit() and int(retry_after) > 0)


class Client:
    """Sends batches of new, shared and repeated events; what was not answered is sent again, as senders do.

    `drops`: the share of requests after which it hangs up without waiting for the answer.
    """

    def __init__(self, name: str, port: int, history: Path, seed: int, drops: float = 0.0) -> None:
        self.name = name
        self.answers: Counter[str] = Counter()
        """By the problem's code; `200` and `none`."""
        self.kinds: Counter[Kind] = Counter()
        self._drops = drops
        self._port = port
        self._history = History(history, name)
        self._random = random.Random(seed)
        self._made = self._requests = 0
        self._to_send_again: list[dict[str, Any]] | None = None
        self._sent_before: list[list[dict[str, Any]]] = []
        self._connection: http.client.HTTPConnection | None = None

    def run_until(self, stop: threading.Event) -> None:
        """Publishes one request after the other until `stop` is set."""
        while not stop.is_set():
            events = self._to_send_again or self._next_batch()
            status = self._publish(events)
            self._to_send_again = None if status == 200 else events
            if status != 200:
                stop.wait(BETWEEN_TRIES_S)
        self._disconnect()

    def _next_batch(self) -> list[dict[str, Any]]:
        draw = self._random
        self._requests += 1
        if self._sent_before and draw.random() < 0.1:
            return draw.choice(self._sent_before)
        size = LONG_BATCH_EVENTS if draw.random() < 0.05 else draw.choice([1, 1, 1, 5, 20, 50, 300])
        events = [self._event() for _ in range(size)]
        if size > 1 and draw.random() < 0.3:
            events[-1] = events[0]
        if draw.random() < 0.05:
            self._sent_before.append(events)
        return events

    def _event(self) -> dict[str, Any]:
        draw = self._random
        self._made += 1
        if draw.random() < 0.3:
            number = draw.randrange(SHARED_KEYS) + 8 * self._requests
            topic, event_id = f"shared-{number % 3}", f"e-{number}"
            payload = {"n": number} if draw.random() < 0.7 else {"by": self.name, "try": draw.randrange(3)}
        else:
            topic, event_id = f"own-{draw.randrange(20)}", f"{self.name}-{self._made}"
            payload = {"n": self._made, "text": "x" * draw.randrange(200)}
        return {
            "topic": topic,
            "event_id": event_id,
            "timestamp": "2024-01-01T00:00:00Z",
            "source": self.name,
            "payload": payload,
        }

    def _publish(self, events: list[dict[str, Any]]) -> int:
        is_single = len(events) == 1 and self._random.random() < 0.7
        target = "/publish?receipts=true" if self._random.random() < 0.6 else "/publish"
        body = json.dumps(events[0] if is_single else events)
        call = self._history.call(events)
        status, answer = self._request(target, body)
        self._history.answer(call, status, answer)
        code = answer.get("code") if isinstance(answer, dict) else None
        self.answers["200" if status == 200 else str(code or "none")] += 1
        return status

    def _request(self, target: str, body: str) -> tuple[int, Any]:
        """Status and body; -1 when nothing was sent, 0 when no answer came."""
        if self._connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_S_MAX)
            try:
                connection.connect()
            except OSError:
                return -1, None
            self._connection = connection
        try:
            self._connection.request("POST", target, body, {"content-type": "application/json"})
            if self._random.random() < self._drops:
                self._disconnect()
                return 0, None
            response = self._connection.getresponse()
            self.kinds[kind_of(response)] += 1
            return response.status, json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError):
            self._disconnect()
            return 0, None

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        self._disconnect()
        self._history.close()


class Clients:
    """Several clients on threads of their own, with one folder of histories."""

    def __init__(self, count: int, port: int, folder: Path, seed: int, drops: float = 0.0) -> None:
        self._folder = folder
        self._clients = [Client(f"c{i}", port, folder / f"c{i}.history", seed * 1000 + i, drops) for i in range(count)]
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()

    def start(self) -> None:
        self._stop.clear()
        self._threads = [threading.Thread(target=client.run_until, args=(self._stop,)) for client in self._clients]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Each ends after its request under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        self.stop()
        for client in self._clients:
            client.close()

    def answers(self, code: str) -> int:
        """How many requests were answered so: `200`, or a problem's code."""
        return sum(client.answers[code] for client in self._clients)

    def kinds(self) -> Counter[Kind]:
        """How many answers looked so."""
        return sum((client.kinds for client in self._clients), Counter())

    def attempts(self) -> list[Attempt]:
        return read_histories(self._folder.glob("*.history"))


class Poller:
    """Reads the log page by page behind its cursor, through whatever happens to the server, and keeps what it got."""

    def __init__(self, server: Server, limit: int) -> None:
        self._server = server
        self._limit = limit
        self.events: list[dict[str, Any]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            after = self.events[-1]["offset"] if self.events else 0
            status, page = self._server.call("GET", f"/events?after={after}&limit={self._limit}")
            if status == 200:
                self.events += page
            if status != 200 or not page:
                self._stop.wait(BETWEEN_TRIES_S)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def read_back(server: Server) -> Stored:
    """Everything the server gives out: all events by offset, page by page, its counters, topics and ledger."""
    events: list[dict[str, Any]] = []
    while True:
        after = events[-1]["offset"] if events else 0
        status, page = server.call("GET", f"/events?limit={PAGE}&after={after}")
        assert status == 200, (status, page)
        if not page:
            break
        events += page
    status, stats = server.call("GET", "/stats")
    assert status == 200, (status, stats)
    status, topics = server.call("GET", "/topics?limit=1000")
    assert status == 200, (status, topics)
    ledger = list(server.linked(f"/ledger?event_ids=false&limit={PAGE}"))
    return Stored(events, stats, topics, ledger)


def check(server: Server, attempts: Sequence[Attempt]) -> dict[str, int]:
    """See `check_history`."""
    return check_history(attempts, read_back(server))
