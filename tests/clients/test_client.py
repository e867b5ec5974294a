"""The client against scripted answers, and against a real server."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from sekali import errors
from sekali.client import ONCE, Client, EventFilter, LedgerFilter, RetryPolicy
from sekali.errors import SekaliError, Violation
from sekali.event import SeenAnswer
from tests.serving import Server

Handler = Callable[[httpx2.Request], httpx2.Response]
STORED = {"topic": "a", "event_id": "1", "timestamp": "t", "source": "s", "payload": {}, "received_at": "r"}

SENT_ERRORS = [
    found
    for found in vars(errors).values()
    if isinstance(found, type) and issubclass(found, SekaliError) and "code" in vars(found)
    if found is not SekaliError and not issubclass(found, errors.ClientError)
]


def scripted(handler: Handler, retry: RetryPolicy = ONCE) -> Client:
    return Client("http://sekali.test", retry=retry, transport=httpx2.MockTransport(handler))


def event(number: int, **more: Any) -> dict[str, Any]:
    plain = {"topic": "t", "event_id": f"e-{number}", "timestamp": "2024-01-01T00:00:00Z", "source": "test"}
    return {**plain, "payload": {"n": number}, **more}


def ndjson(*offsets: int, **headers: str) -> httpx2.Response:
    body = "".join(json.dumps({**STORED, "offset": offset}) + "\n" for offset in offsets)
    return httpx2.Response(200, content=body.encode(), headers=headers)


# --- scripted


@pytest.mark.parametrize("error_class", SENT_ERRORS, ids=lambda error_class: error_class.code)
def test_every_error_code_comes_back_as_its_own_class(error_class: type[SekaliError]) -> None:
    problem = {"code": error_class.code, "detail": "why", "errors": [{"pointer": "/0", "code": "c", "detail": "d"}]}
    with pytest.raises(error_class, match="why") as caught:
        scripted(lambda _: httpx2.Response(error_class.status, json=problem, headers={"retry-after": "3"})).stats()
    assert type(caught.value) is error_class
    assert caught.value.retry_after_s == 3
    assert caught.value.violations == (Violation("/0", "c", "d"),)


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(200, text="<html>It works!</html>"),
        httpx2.Response(200, json={"ok": "maybe"}),
        httpx2.Response(404, text="<html>nginx</html>"),
        httpx2.Response(500, json=[1]),
        httpx2.Response(302, headers={"location": "/login"}),
        httpx2.Response(418, json={"code": "teapot", "detail": "x"}),
        httpx2.Response(200, content=b"\xff\xfe"),
    ],
)
def test_another_program_on_the_port_is_told_in_one_line(response: httpx2.Response) -> None:
    with pytest.raises(errors.UnexpectedAnswer, match=r"sekali\.test") as caught:
        scripted(lambda _: response).check()
    assert "\n" not in caught.value.detail
    assert caught.value.answered_status == (0 if response.is_success else response.status_code)


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (httpx2.ConnectError("[Errno 111] Connection refused"), "http://sekali.test: Connection refused"),
        (httpx2.ConnectTimeout(""), "no answer in time"),
        (httpx2.ReadTimeout(""), "no answer in time"),
        (httpx2.RemoteProtocolError("Server disconnected"), r"the connection broke \(Server disconnected\)"),
        (httpx2.ReadError(""), "the connection broke$"),
    ],
)
def test_a_failed_connection_names_the_server(failure: Exception, words: str) -> None:
    def fail(_: httpx2.Request) -> httpx2.Response:
        raise failure

    with pytest.raises(errors.ServerUnreachable, match=words):
        scripted(fail).stats()


def test_a_publish_whose_answer_is_lost_is_repeated_with_the_same_bytes() -> None:
    bodies: list[bytes] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.content)
        if len(bodies) == 1:
            raise httpx2.ReadTimeout("")
        if len(bodies) == 2:
            return httpx2.Response(503, json={"code": "outcome_unknown"}, headers={"retry-after": "1"})
        return httpx2.Response(
            200, json={"accepted": 1, "queued": 1, "receipts": [{"status": "duplicate", "offset": 4}]}
        )

    waits: list[float] = []
    published = scripted(handler, RetryPolicy(sleep=waits.append)).publish([event(1)])
    assert published.tries == 3
    assert (published.receipts[0].status, published.receipts[0].offset) == ("duplicate", 4)
    assert len(set(bodies)) == 1
    assert len(waits) == 2
    assert waits[1] >= 1


def test_an_answer_with_too_few_receipts_is_not_believed() -> None:
    with pytest.raises(errors.UnexpectedAnswer):
        scripted(lambda _: httpx2.Response(200, json={"accepted": 1, "queued": 1, "receipts": []})).publish([event(1)])


def test_pages_follow_the_links_cursor_whatever_it_looks_like() -> None:
    asked: list[httpx2.QueryParams] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.params)
        if len(asked) == 1:
            return ndjson(1, 2, link='</events?topic=a%20b&after=opaque%2Bcursor>; rel="next"')
        return ndjson(3)

    client = scripted(handler)
    pages = list(client.pages(EventFilter(topics=("a b", "c"), since="2024-01-01")))
    assert [stored.offset for page in pages for stored in page.events] == [1, 2, 3]
    assert [page.more for page in pages] == [True, False]
    assert (pages[0].cursor, pages[1].cursor) == ("opaque+cursor", "3")
    assert asked[0].get_list("topic") == ["a b", "c"]
    assert "after" not in asked[0]
    assert asked[1]["after"] == "opaque+cursor"


def test_an_empty_page_keeps_the_cursor() -> None:
    page = scripted(lambda _: ndjson()).page(after="17")
    assert (page.lines, page.cursor, page.more) == ((), "17", False)


def test_line_separators_inside_a_string_do_not_end_a_line() -> None:
    line = json.dumps({**STORED, "offset": 1, "payload": {"x": "a\u2028b\x85c"}}, ensure_ascii=False)
    (found,) = scripted(lambda _: httpx2.Response(200, content=line.encode() + b"\n")).events()
    assert found.payload == {"x": "a\u2028b\x85c"}


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://ho st:x", "://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Client(url)


def test_a_url_without_scheme_means_http() -> None:
    with Client("localhost:8080/") as client:
        assert client.url == "http://localhost:8080"


# --- a real server


def test_publish_and_read_back(server: Server) -> None:
    with Client(server.url, retry=ONCE) as client:
        client.check()
        first = client.publish([event(1), event(2), event(2), event(1, payload={"n": "other"})])
        assert [receipt.status for receipt in first.receipts] == ["stored", "stored", "duplicate", "conflict"]
        assert [receipt.offset for receipt in first.receipts] == [1, 2, 2, 1]
        assert (first.accepted, first.conflicts, first.tries) == (4, (3,), 1)
        assert (first.count("stored"), first.count("rejected")) == (2, 0)
        assert client.publish([]).receipts == ()
        assert [stored.event_id for stored in client.events()] == ["e-1", "e-2"]
        assert client.seen([("t", "e-2"), ("t", "e-9")]) == [SeenAnswer(True, 2), SeenAnswer(False, 0)]
        assert client.event("t", "e-1").payload == {"n": 1}
        assert client.has_event("t", "e-2")
        assert not client.has_event("t", "e-9")
        figures = client.stats()
        assert (figures.received, figures.unique_processed, figures.duplicate_dropped, figures.conflicts) == (
            4,
            2,
            2,
            1,
        )
        assert json.loads(client.stats_json())["received"] == 4


def test_a_partial_publish_stores_the_good_and_tells_of_the_bad(server: Server) -> None:
    with Client(server.url, retry=ONCE) as client:
        published = client.publish([event(1), event(2, topic=""), event(3)], partial=True)
        assert [receipt.status for receipt in published.receipts] == ["stored", "rejected", "stored"]
        assert published.receipts[1].code == "empty"
        with pytest.raises(errors.InvalidEvent) as caught:
            client.publish([event(4), event(5, topic="")])
        assert caught.value.violations[0].pointer == "/1/topic"
        assert not client.has_event("t", "e-4")


def test_numbers_come_back_as_they_were_sent(server: Server) -> None:
    payload = b'{"big":18446744073709551617,"price":1.10,"huge":1E400,"digits":%s}' % (b"7" * 5000)
    body = b'{"topic":"t","event_id":"n","timestamp":"2024-01-01T00:00:00Z","source":"s","payload":%b}' % payload
    with Client(server.url, retry=ONCE) as client:
        client.publish_encoded([body])
        stored = client.event("t", "n")
    assert bytes(stored.payload_json) == payload
    assert stored.payload["big"] == 18446744073709551617
    assert str(stored.payload["price"]) == "1.10"
    assert stored.payload["huge"] == Decimal("1E400")
    assert str(stored.payload["digits"]) == "7" * 5000


def test_reading_page_by_page_gives_everything_once_in_order(server: Server, rng: random.Random) -> None:
    events = [event(number, topic=f"t{rng.randrange(3)}") for number in range(3500)]
    with Client(server.url, retry=ONCE) as client:
        client.publish(events)
        assert [stored.event_id for stored in client.events()] == [sent["event_id"] for sent in events]
        assert [page.more for page in client.pages()] == [True, True, True, False]
        of_two = [sent["event_id"] for sent in events if sent["topic"] != "t1"]
        assert [stored.event_id for stored in client.events(EventFilter(topics=("t0", "t2")))] == of_two
        newest = client.page(newest_first=True, limit=5)
        assert [stored.offset for stored in newest.events] == [3500, 3499, 3498, 3497, 3496]
        older = client.page(newest_first=True, before=newest.cursor, limit=2)
        assert [stored.offset for stored in older.events] == [3495, 3494]


def test_the_ledger_is_read_page_by_page_in_either_order(server: Server) -> None:
    events = [event(number, topic=f"t{number % 2}") for number in range(1200)]
    with Client(server.url, retry=ONCE) as client:
        client.publish(events)
        client.publish([{**sent, "source": "again"} for sent in events])
        client.publish([event(3, topic="t1", payload={"n": 1.50})])
        found = list(client.ledger())
        assert [entry.event_id for entry in found[:-1]] == [sent["event_id"] for sent in events]
        assert list(client.ledger(newest_first=True)) == found[::-1]
        assert [len(page.entries) for page in client.ledger_pages(event_ids=False)] == [1000, 201]
        (conflict,) = client.ledger(LedgerFilter(topics=("t1",), source="test", status="conflict"))
        assert (conflict.offset, conflict.event_id, conflict.status) == (4, "e-3", "conflict")
        assert conflict.payload == {"n": Decimal("1.50")}
        assert (found[0].source, found[0].status, found[0].payload) == ("again", "duplicate", None)
        assert next(client.ledger(event_ids=False)).event_id is None
        assert list(client.ledger(LedgerFilter(since=conflict.received_at))) == [conflict]
        assert list(client.ledger(LedgerFilter(until=conflict.received_at))) == found[:-1]


def test_topics_are_read_page_by_page(server: Server) -> None:
    with Client(server.url, retry=ONCE) as client:
        client.publish([event(1, topic=f"topic/{number:04} ü&=") for number in range(2100)])
        found = list(client.topics())
    assert [topic.topic for topic in found] == [f"topic/{number:04} ü&=" for number in range(2100)]
    assert {(topic.events, topic.duplicates) for topic in found} == {(1, 0)}


def test_a_server_that_is_killed_and_started_again_is_waited_for(server: Server) -> None:
    told: list[str] = []

    def start_again(error: SekaliError, _wait_s: float) -> None:
        told.append(error.code)
        if len(told) == 1:
            server.start()

    with Client(server.url, retry=RetryPolicy(first_wait_s=0.01, on_retry=start_again)) as client:
        client.publish([event(1)])
        server.kill()
        assert client.publish([event(1), event(2)]).tries > 1
        assert [stored.event_id for stored in client.events()] == ["e-1", "e-2"]
    assert set(told) == {"server_unreachable"}
