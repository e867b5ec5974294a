"""Reading over HTTP: filters, pages, streams, and how a stream ends that cannot go on."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from sekali.errors import StoreCorrupt
from sekali.event import ReadQuery, StoredEvents
from sekali.http import read, reading
from sekali.http.app import SekaliApp
from sekali.http.params import PARAMETERS_MAX
from sekali.hub import Hub
from tests.http.conftest import MakeClient
from tests.serving import Server
from tests.support.publishing import Event, event, ids, publish, publish_many
from tests.support.stores import WAIT_S_MAX, wait_for


def violations(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_parameter"
    return [(each["pointer"], each["code"]) for each in answer.json()["errors"]]


def hub_of(client: TestClient) -> Hub:
    app = client.app
    assert isinstance(app, SekaliApp)
    assert app.lifecycle.current is not None
    return app.lifecycle.current.hub


def all_pages(client: TestClient, path: str) -> list[list[Event]]:
    """Every page, by its links."""
    pages = []
    while path:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json())
        path = answer.links.get("next", {}).get("url", "")
    return pages


# What comes back


def test_events_come_back_as_a_bare_array_in_offset_order(client: TestClient) -> None:
    sent = publish_many(client, 1500, ["alpha", "beta", "gamma"], payload={"big": 2**70})
    answer = client.get("/events")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    got = answer.json()
    assert [{name: each[name] for name in sent[0]} for each in got] == sent
    assert [each["offset"] for each in got] == list(range(1, 1501))
    assert list(got[0]) == ["topic", "event_id", "timestamp", "source", "payload", "offset", "received_at"]


def test_an_empty_store_and_an_unknown_topic_give_an_empty_array(client: TestClient) -> None:
    assert client.get("/events").text == "[]"
    publish(client, event("e-1"))
    assert client.get("/events?topic=nobody").text == "[]"
    assert client.get("/events?topic=nobody&limit=5").text == "[]"
    assert client.get("/events?topic=nobody&format=ndjson").text == ""


def test_topics_are_exact_may_repeat_and_empty_means_no_filter(client: TestClient) -> None:
    names = ["a", "A", "a/b", "a&b=c", "a+b", "日本", "../a", "*", "a b"]
    publish_many(client, 90, names)
    for name in names:
        got = client.get(f"/events?topic={quote(name, safe='')}").json()
        assert {each["topic"] for each in got} == {name}
        assert len(got) == 10
    assert {each["topic"] for each in client.get("/events?topic=a&topic=A&topic=a").json()} == {"a", "A"}
    assert len(client.get("/events?topic=").json()) == 90
    assert len(client.get("/events?topic=&topic=a").json()) == 10
    assert len(client.get("/events?topic=a+b").json()) == 10, "a plus sign in a query is a space"


def test_source_after_since_and_until_filter(client: TestClient) -> None:
    publish(client, event("e-1", source="x"))
    publish(client, event("e-2", source="y"))
    publish(client, event("e-3", source="x"))
    assert ids(client.get("/events?source=x").json()) == ["e-1", "e-3"]
    assert ids(client.get("/events?source=").json()) == ["e-1", "e-2", "e-3"]
    assert ids(client.get("/events?after=1").json()) == ["e-2", "e-3"]
    assert client.get("/events?after=3").json() == []
    assert client.get(f"/events?after={2**63 - 1}").json() == []
    stamps = [each["received_at"] for each in client.get("/events").json()]
    assert ids(client.get("/events", params={"since": stamps[1]}).json()) == ["e-2", "e-3"]
    assert ids(client.get("/events", params={"until": stamps[1]}).json()) == ["e-1"]
    assert ids(client.get("/events", params={"since": stamps[1], "until": stamps[2]}).json()) == ["e-2"]
    east = stamps[1].removesuffix("Z") + "+00:00"
    assert ids(client.get("/events", params={"since": east, "order": "desc", "limit": 1}).json()) == ["e-3"]


def test_order_desc_with_before_and_after(client: TestClient) -> None:
    publish_many(client, 10)
    assert [each["offset"] for each in client.get("/events?order=desc").json()] == list(range(10, 0, -1))
    assert [each["offset"] for each in client.get("/events?order=desc&before=4").json()] == [3, 2, 1]
    assert [each["offset"] for each in client.get("/events?order=desc&before=4&after=1").json()] == [3, 2]
    assert client.get("/events?order=desc&before=0").json() == []


def test_ndjson_by_parameter_and_by_accept(client: TestClient) -> None:
    body = (
        b'[{"topic":"alpha","event_id":"e-1","timestamp":"2024-01-01T00:00:00Z","source":"s","payload":{\r\n "a":\n1}},'
        b'{"topic":"alpha","event_id":"e-2","timestamp":"2024-01-01T00:00:00Z","source":"s","payload":{}}]'
    )
    assert client.post("/publish", content=body, headers={"content-type": "application/json"}).status_code == 200
    for answer in (
        client.get("/events?format=ndjson"),
        client.get("/events?format=ndjson&limit=9"),
        client.get("/events", headers={"accept": "application/json;q=0.5, application/x-ndjson"}),
    ):
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines = answer.content.split(b"\n")
        assert lines.pop() == b""
        assert [json.loads(line)["event_id"] for line in lines] == ["e-1", "e-2"]
    for accept in ("*/*", "application/json", "application/x-ndjson;q=0", "text/html"):
        assert client.get("/events", headers={"accept": accept}).headers["content-type"] == "application/json"
    explicit = client.get("/events?format=json", headers={"accept": "application/x-ndjson"})
    assert explicit.headers["content-type"] == "application/json"


def test_one_event_by_its_key(client: TestClient) -> None:
    publish(client, event("e/1 ü", "a&b", payload={"x": [1.10]}))
    answer = client.get("/event", params={"topic": "a&b", "event_id": "e/1 ü"})
    assert answer.status_code == 200
    assert answer.json() == {**event("e/1 ü", "a&b", payload={"x": [1.1]}), "offset": 1, **received_at(answer)}
    missing = client.get("/event", params={"topic": "a&b", "event_id": "e/2"})
    assert (missing.status_code, missing.json()["code"]) == (404, "event_not_found")
    assert "e/2" not in missing.text
    assert violations(client.get("/event?topic=a")) == [("event_id", "missing_parameter")]
    assert violations(client.get("/event?topic=&event_id=")) == [
        ("topic", "missing_parameter"),
        ("event_id", "missing_parameter"),
    ]


def received_at(answer: Any) -> dict[str, str]:
    return {"received_at": answer.json()["received_at"]}


def test_seen_answers_in_order_and_publishes_nothing(client: TestClient) -> None:
    publish(client, event("e-1"), event("e-2"))
    keys = [{"topic": "alpha", "event_id": each} for each in ("e-2", "e-9", "e-1", "e-2")]
    known = [{"seen": True, "offset": 2}, {"seen": False}, {"seen": True, "offset": 1}, {"seen": True, "offset": 2}]
    assert client.post("/seen", json=keys).json() == known
    assert client.post("/seen", json=keys[0]).json() == [known[0]]
    assert client.post("/seen", json=[]).json() == []
    assert client.post("/seen", json=event("e-1")).json() == [known[2]], "what can be published can be asked for"
    assert client.get("/stats").json()["received"] == 2


def test_seen_holds_its_body_to_the_rules_of_publish(make_client: MakeClient) -> None:
    client = make_client(body_bytes_max=2048, batch_events_max=10)
    json_type = {"content-type": "application/json"}
    for content, headers, expected in [
        (b"{", json_type, (400, "not_json")),
        (b"7", json_type, (400, "wrong_root")),
        (b"[" + b" " * 2048 + b"]", json_type, (413, "body_too_large")),
        (b"[" + b'{"topic":"a","event_id":"b"},' * 11 + b"{}]", json_type, (413, "too_many_events")),
        (b"{}", {"content-type": "text/plain"}, (415, "unsupported_media_type")),
        (b"{}", {"origin": "https://elsewhere.example"}, (415, "unsupported_media_type")),
        (b"{}", {**json_type, "content-encoding": "br"}, (415, "unsupported_encoding")),
        (b'{"topic":"a"}', json_type, (422, "invalid_event")),
        (b'{"topic":"a","event_id":1}', json_type, (422, "invalid_event")),
    ]:
        answer = client.post("/seen", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == expected
    assert violations(client.post("/seen?x=1", json=[])) == [("", "unknown_parameter")]
    assert client.post("/seen", json=[]).status_code == 200


# Pages


@pytest.mark.parametrize("total", [0, 1, 6, 7])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_links_to_the_next_exactly_if_there_is_more(client: TestClient, total: int, order: str) -> None:
    publish_many(client, total)
    pages = all_pages(client, f"/events?limit=3&order={order}")
    assert [len(page) for page in pages] == {0: [0], 1: [1], 6: [3, 3], 7: [3, 3, 1]}[total]
    offsets = [each["offset"] for page in pages for each in page]
    assert offsets == (list(range(1, total + 1)) if order == "asc" else list(range(total, 0, -1)))


def test_a_link_keeps_every_filter(client: TestClient) -> None:
    names = ["a&b=c", "日本 語", "a/b;c"]
    publish_many(client, 60, [*names, "other"], source="s+1")
    publish(client, event("x", "a&b=c", source="s 1"))
    query = "&".join(f"topic={quote(name, safe='')}" for name in names)
    query += "&source=s%2B1&since=2024-01-01&until=9999-01-01T00:00:00%2B05:00&format=ndjson&limit=4"
    for order in ("asc", "desc"):
        path, got = f"/events?{query}&order={order}", []
        while path:
            answer = client.get(path)
            assert answer.status_code == 200, answer.text
            got += [json.loads(line) for line in answer.text.splitlines()]
            path = answer.links.get("next", {}).get("url", "")
        expected = [n for n in range(1, 61) if n % 4 != 3]
        assert sorted(each["offset"] for each in got) == expected
        assert [each["offset"] for each in got] == sorted(expected, reverse=order == "desc")


def test_pages_that_overlap_writing_miss_and_repeat_nothing(client: TestClient, rng: random.Random) -> None:
    publish_many(client, 20)
    path, got, added = "/events?limit=7&topic=alpha", [], 20
    while path:
        if added < 60:
            more = rng.randrange(1, 9)
            publish(client, *(event(f"late-{added + i}") for i in range(more)))
            added += more
        answer = client.get(path)
        got += [each["offset"] for each in answer.json()]
        path = answer.links.get("next", {}).get("url", "")
    assert got == list(range(1, added + 1))


def test_a_page_of_large_events_ends_early_and_links_on(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "PAGE_BYTES_MAX", 3_000)
    publish_many(client, 10, payload={"text": "x" * 1_000})
    publish(client, event("large", payload={"text": "x" * 10_000}), event("last"))
    pages = all_pages(client, "/events?limit=100")
    assert [len(page) for page in pages] == [3, 3, 3, 2, 1]
    assert [each for page in pages for each in ids(page)] == [*(f"e-{n}" for n in range(1, 11)), "large", "last"]


def test_the_limit_is_a_setting(make_client: MakeClient) -> None:
    client = make_client(page_events_max=5)
    publish_many(client, 8)
    assert len(client.get("/events?limit=5").json()) == 5
    assert violations(client.get("/events?limit=6")) == [("limit", "out_of_range")]
    assert len(client.get("/events").json()) == 8


# What is refused


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("topics=a", [("", "unknown_parameter")]),
        ("Topic=a", [("", "unknown_parameter")]),
        ("=a", [("", "unknown_parameter")]),
        ("after=1&after=1", [("after", "repeated_parameter")]),
        ("limit=1&limit=2", [("limit", "repeated_parameter")]),
        (f"after={2**63}", [("after", "not_a_cursor")]),
        (f"after={10**30}", [("after", "not_a_cursor")]),
        ("after=-1", [("after", "not_a_cursor")]),
        ("after=%2B1", [("after", "not_a_cursor")]),
        ("after=01", [("after", "not_a_cursor")]),
        ("after=1.0", [("after", "not_a_cursor")]),
        ("after=1e3", [("after", "not_a_cursor")]),
        ("after=", [("after", "not_a_cursor")]),
        ("after=%D9%A1", [("after", "not_a_cursor")]),
        ("after=MTc", [("after", "not_a_cursor")]),
        (f"order=desc&before={2**63}", [("before", "not_a_cursor")]),
        ("before=5", [("before", "not_together")]),
        ("before=5&order=asc", [("before", "not_together")]),
        ("order=up", [("order", "not_a_choice")]),
        ("order=", [("order", "not_a_choice")]),
        ("format=csv", [("format", "not_a_choice")]),
        ("limit=0", [("limit", "out_of_range")]),
        ("limit=-1", [("limit", "out_of_range")]),
        ("limit=1000000000", [("limit", "out_of_range")]),
        ("limit=" + "9" * 5_000, [("limit", "not_a_number")]),
        ("limit=ten", [("limit", "not_a_number")]),
        ("since=yesterday", [("since", "not_a_timestamp")]),
        ("until=2024-02-30", [("until", "not_a_timestamp")]),
        ("since=2024-01-01T00:00:00+02:00", [("since", "not_a_timestamp")]),
        ("topic=%00", [("topic", "control_character")]),
        ("topic=a%0D%0Ab", [("topic", "control_character")]),
        ("topic=%20a", [("topic", "surrounding_whitespace")]),
        ("topic=" + "a" * 256, [("topic", "too_long")]),
        ("source=" + "a" * 1025, [("source", "too_long")]),
        ("topic=%FF", [("", "not_utf8")]),
        ("topic=%ED%A0%80", [("", "not_utf8")]),
        ("topic=a&" * (PARAMETERS_MAX + 1), [("", "too_many_parameters")]),
        ("limit=0&order=up&x=1", [("", "unknown_parameter"), ("order", "not_a_choice"), ("limit", "out_of_range")]),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_parameter_that_breaks_a_rule_is_refused_and_not_repeated(
    reader: TestClient, query: str, expected: list[tuple[str, str]]
) -> None:
    answer = reader.get(f"/events?{query}")
    assert violations(answer) == expected
    value = query.partition("=")[2]
    if len(value) > 4 and not value.startswith("a" * 5):
        assert value not in answer.text
    assert reader.head(f"/events?{query}").status_code == 422


@pytest.mark.parametrize(
    ("slip", "meant"), [("topics", "topic"), ("TOPIC", "topic"), ("offset", "after"), ("sort", "order")]
)
def test_a_likely_slip_is_told_what_was_meant(reader: TestClient, slip: str, meant: str) -> None:
    detail = reader.get(f"/events?{slip}=x").json()["detail"]
    assert f"Did you mean {meant}?" in detail
    assert "Known: topic, after" in detail


# HEAD


def test_head_of_a_stream_reads_nothing(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_many(client, 5)

    def no_read(*_: Any) -> Iterator[StoredEvents]:
        raise AssertionError("a HEAD must not read")

    monkeypatch.setattr(hub_of(client), "read", no_read)
    answer = client.head("/events?topic=alpha")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/events?limit=3", "/event?topic=alpha&event_id=e-1", "/events?limit=3&order=desc"])
def test_head_says_what_get_would(client: TestClient, path: str) -> None:
    publish_many(client, 5)
    got, head = client.get(path), client.head(path)
    assert head.content == b""
    assert head.headers == got.headers


# Streams


class Runs:
    """A stand-in for `Hub.read`: runs made by `make(n)`, until it returns None. Knows whether it was closed."""

    def __init__(self, make: Callable[[int], StoredEvents | None]) -> None:
        self._make = make
        self.asked = 0
        self.is_closed = threading.Event()

    def __call__(self, _: ReadQuery) -> Iterator[StoredEvents]:
        try:
            while (run := self._make(self.asked)) is not None:
                self.asked += 1
                yield run
        finally:
            self.is_closed.set()


def run_of(first_offset: int, events: int = 100, payload: bytes = b"{}") -> StoredEvents:
    names = [f"e-{first_offset + i}" for i in range(events)]
    return StoredEvents(
        topics=["alpha"] * events,
        event_ids=names,
        timestamps=["2024-01-01T00:00:00Z"] * events,
        sources=["test"] * events,
        payloads=[payload] * events,
        extras=None,
        offsets=range(first_offset, first_offset + events),
        received_at_us=[0] * events,
    )


LARGE = b'{"text":"%b"}' % (b"x" * 5_000)


class Conversation:
    """One request by plain ASGI, so that a test sees each message and says when the client leaves."""

    def __init__(self, client: TestClient, query: bytes = b"", method: str = "GET") -> None:
        self._app = client.app
        self.scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": "/events", "raw_path": b"/events", "query_string": query, "root_path": "",
            "headers": [(b"host", b"test")],
        }  # fmt: skip
        self.messages: list[Any] = []
        self.leave_after: int | None = None
        """After so many messages the client is gone."""
        self._gone = asyncio.Event()

    async def run(self) -> None:
        await self._app(self.scope, self._receive, self._send)

    async def _receive(self) -> Any:
        if not self.messages and not self._gone.is_set() and not hasattr(self, "_asked"):
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.messages.append(message)
        if self.leave_after is not None and len(self.messages) >= self.leave_after:
            self._gone.set()
        await asyncio.sleep(0)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


async def test_a_stream_goes_out_in_few_bounded_writes(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = Runs(lambda n: run_of(n * 100 + 1, payload=LARGE) if n < 20 else None)
    monkeypatch.setattr(hub_of(client), "read", runs)
    conversation = Conversation(client)
    await conversation.run()
    writes = [len(message["body"]) for message in conversation.messages[1:]]
    assert len(json.loads(conversation.body)) == 2000
    assert max(writes) <= read.WRITE_BYTES_MAX
    assert len(writes) < 2 * sum(writes) / read.WRITE_BYTES_MAX + 20
    assert runs.is_closed.is_set()


async def test_small_runs_are_joined(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "PIECE_S", 60.0)
    monkeypatch.setattr(hub_of(client), "read", Runs(lambda n: run_of(n + 1, events=1) if n < 500 else None))
    conversation = Conversation(client)
    await conversation.run()
    assert len(json.loads(conversation.body)) == 500
    assert len(conversation.messages) == 3, "start, one write, end"


async def test_runs_without_a_match_are_passed_over(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run_of(1, 0), run_of(1, 2), run_of(3, 0), run_of(3, 1), run_of(4, 0)]
    for query in (b"", b"limit=9", b"format=ndjson"):
        monkeypatch.setattr(hub_of(client), "read", Runs(lambda n: runs[n] if n < len(runs) else None))
        conversation = Conversation(client, query)
        await conversation.run()
        assert conversation.body.count(b'"event_id"') == 3
        if query != b"format=ndjson":
            assert len(json.loads(conversation.body)) == 3


@pytest.mark.parametrize("query", [b"", b"format=ndjson"])
async def test_a_stream_that_fails_never_ends_as_if_whole(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, query: bytes
) -> None:
    def make(n: int) -> StoredEvents:
        if n == 2:
            raise StoreCorrupt("block 7")
        return run_of(n * 100 + 1, payload=LARGE)

    monkeypatch.setattr(hub_of(client), "read", Runs(make))
    conversation = Conversation(client, query)
    with pytest.raises(read.StreamBroken) as broken:
        await conversation.run()
    assert isinstance(broken.value.__cause__, StoreCorrupt)
    assert conversation.messages[0]["status"] == 200
    assert all(message["more_body"] for message in conversation.messages[1:])
    assert not conversation.body.endswith(b"]")


@pytest.mark.parametrize("query", ["", "?limit=5"])
def test_a_read_that_fails_at_once_is_a_problem(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    def make(_: int) -> StoredEvents:
        raise StoreCorrupt("A checksum does not hold.")

    monkeypatch.setattr(hub_of(client), "read", Runs(make))
    answer = client.get(f"/events{query}")
    assert (answer.status_code, answer.json()["code"]) == (500, "store_corrupt")


@pytest.mark.parametrize("query", [b"", b"limit=10000&source=nobody"])
async def test_a_read_ends_with_its_client(client: TestClient, monkeypatch: pytest.MonkeyPatch, query: bytes) -> None:
    """Also a page that has found nothing yet: its runs are empty, and there would be no end of them."""
    runs = Runs(lambda n: run_of(1, 0) if query else run_of(n * 100 + 1, payload=LARGE))
    monkeypatch.setattr(hub_of(client), "read", runs)
    conversation = Conversation(client, query)
    if query:
        asyncio.get_running_loop().call_later(0.05, conversation._gone.set)
    else:
        conversation.leave_after = 4
    await asyncio.wait_for(conversation.run(), WAIT_S_MAX)
    wait_for(runs.is_closed.is_set, "the read is closed")
    assert all(message.get("more_body", True) for message in conversation.messages)


class StalledConversation(Conversation):
    """Its client takes the first piece, and no more until `go_on` is set."""

    def __init__(self, client: TestClient, query: bytes = b"") -> None:
        super().__init__(client, query)
        self.is_stalled = asyncio.Event()
        self.go_on = asyncio.Event()

    async def _send(self, message: Any) -> None:
        await super()._send(message)
        if len(self.messages) == 2:
            self.is_stalled.set()
            await self.go_on.wait()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (b"", range(1, 501)),
        (b"order=desc", range(500, 0, -1)),
        (b"format=ndjson", range(1, 501)),
        (b"topic=alpha", range(2, 501, 2)),
        (b"topic=beta&order=desc&after=7&before=400", range(399, 7, -2)),
    ],
)
async def test_reads_that_wait_let_go_of_the_store_and_go_on_where_they_were(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, query: bytes, expected: range
) -> None:
    monkeypatch.setattr(reading, "OPEN_READS_MAX", 2)
    monkeypatch.setattr(reading, "PART_BYTES", 2_000)
    monkeypatch.setattr(read, "PIECE_BYTES_MIN", 2_000)
    made: list[reading.Reading] = []
    monkeypatch.setattr(read, "Reading", lambda *given: made.append(reading.Reading(*given)) or made[-1])
    publish_many(client, 500, ["alpha", "beta"], payload={"text": "x" * 50})
    stalled = [StalledConversation(client, query) for _ in range(6)]
    running = [asyncio.ensure_future(each.run()) for each in stalled]
    await asyncio.gather(*(each.is_stalled.wait() for each in stalled))
    assert sum(each.is_open for each in made) <= 2
    await asyncio.to_thread(publish_many, client, 20, ["alpha", "beta", "late"])
    for each in stalled:
        each.go_on.set()
    await asyncio.wait_for(asyncio.gather(*running), WAIT_S_MAX)
    for each in stalled:
        assert len(each.messages) > 10
        lines = each.body.decode().strip("[]").replace("},\n", "}\n").splitlines()
        assert [json.loads(line)["offset"] for line in lines] == list(expected)
    assert not any(each.is_open for each in made)


async def test_a_part_is_bounded_in_bytes_whatever_the_events(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = [LARGE * 100, b"{}", b"{}", LARGE, LARGE * 100, b"{}"]
    run = run_of(1, len(payloads))
    run.payloads = payloads
    monkeypatch.setattr(hub_of(client), "read", Runs(lambda n: run if n == 0 else None))
    parts = reading.Reading(hub_of(client), ReadQuery())
    taken = []
    while (part := parts.next_part()) is not None:
        taken.append(list(part.offsets))
    assert [n for part in taken for n in part] == list(range(1, 7))
    assert taken == [[1], [2, 3, 4, 5], [6]]


async def test_a_cancelled_request_closes_its_read(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, released = threading.Event(), threading.Event()

    def make(_: int) -> StoredEvents:
        reached.set()
        assert released.wait(WAIT_S_MAX)
        return run_of(1)

    runs = Runs(make)
    monkeypatch.setattr(hub_of(client), "read", runs)
    asked = asyncio.ensure_future(Conversation(client).run())
    await asyncio.to_thread(reached.wait, WAIT_S_MAX)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not runs.is_closed.is_set(), "its step is still under way on a thread"
    released.set()
    await asyncio.to_thread(wait_for, runs.is_closed.is_set, "the step closes the read")


def test_a_slow_reader_holds_up_nobody_and_gets_everything_up_to_its_beginning(
    make_server: Callable[..., Server],
) -> None:
    server = make_server().start()
    text = "x" * 20_000
    for batch in range(10):
        events = [event(f"{batch}-{i}", payload={"text": text}) for i in range(200)]
        assert server.call("POST", "/publish", events)[0] == 200
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(WAIT_S_MAX)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET /events HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert server.call("POST", "/publish", [event("while it waits")])[0] == 200
        got = json.loads(answer.read())
    assert [each["offset"] for each in got] == list(range(1, 2001))
