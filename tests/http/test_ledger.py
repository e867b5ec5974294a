"""The duplicate ledger over HTTP: who sent again what, filters, pages, and damage."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from sekali.store import ledger as stored_ledger
from tests.http.conftest import MakeClient
from tests.support.publishing import Event, event, ids, publish, publish_many


def all_pages(client: TestClient, path: str) -> list[list[Event]]:
    """Every page, by its links."""
    pages = []
    while path:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        pages.append(answer.json())
        path = answer.links.get("next", {}).get("url", "")
    return pages


def violations(answer: Any) -> list[tuple[str, str]]:
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert answer.json()["code"] == "invalid_parameter"
    return [(each["pointer"], each["code"]) for each in answer.json()["errors"]]


def test_an_entry_tells_what_was_sent_again_by_whom_and_when(client: TestClient) -> None:
    publish(client, event("e-1"), event("e-2", 'beta "quoted"'), event("e-1", source="phone"))
    publish(client, event("e-2", 'beta "quoted"', source="web", payload={"x": 1}))
    publish(client, event("e-3"))
    first, second = client.get("/ledger").json()
    stamps = [each["received_at"] for each in client.get("/events").json()]
    assert first == {
        "topic": "alpha",
        "offset": 1,
        "event_id": "e-1",
        "source": "phone",
        "received_at": stamps[0],
        "status": "duplicate",
    }
    assert list(second) == ["topic", "offset", "event_id", "source", "received_at", "status", "payload"]
    assert stamps[1] <= second["received_at"] <= stamps[2]
    assert (second["topic"], second["offset"], second["source"]) == ('beta "quoted"', 2, "web")
    assert (second["status"], second["payload"]) == ("conflict", {"x": 1})
    stats = client.get("/stats").json()
    assert (stats["duplicate_dropped"], stats["conflicts"]) == (2, 1)


def test_a_refused_payload_comes_back_as_sent_or_is_left_out(client: TestClient) -> None:
    sent = '{"topic":"a","event_id":"1","timestamp":"2024-01-01T00:00:00Z","source":"s","payload":%s}'
    for payload in ("{}", '{ "n":\n1.10, "big": 18446744073709551617 }', json.dumps({"x": "y" * 5000})):
        body = (sent % payload).encode()
        assert client.post("/publish", content=body, headers={"content-type": "application/json"}).status_code == 200
    kept, left_out = client.get("/ledger").text.split(",\n{")
    assert kept.endswith('"status":"conflict","payload":{ "n":\n1.10, "big": 18446744073709551617 }}')
    assert left_out.endswith('"status":"conflict"}]')
    lines = client.get("/ledger?format=ndjson").text.splitlines()
    assert [json.loads(line)["status"] for line in lines] == ["conflict", "conflict"]


def test_an_empty_ledger_is_an_empty_array(client: TestClient) -> None:
    for path in (
        "/ledger",
        "/ledger?topic=nobody&order=desc",
        "/ledger?since=2024-01-01T00:00:00Z",
        "/ledger?after=1-0",
    ):
        answer = client.get(path)
        assert (answer.text, answer.headers["content-type"]) == ("[]", "application/json")
        assert "link" not in answer.headers
    assert client.get("/ledger?format=ndjson").text == ""
    publish_many(client, 5)
    assert client.get("/ledger").text == "[]"


def test_topic_source_status_and_time_choose(client: TestClient) -> None:
    for topic in ("a", "b", "c"):
        publish(client, event("e-1", topic))
        publish(client, event("e-1", topic, source="again"))
        publish(client, event("e-1", topic, payload={"other": topic}))
    entries = client.get("/ledger").json()
    assert [(each["topic"], each["status"]) for each in entries] == [
        (topic, status) for topic in ("a", "b", "c") for status in ("duplicate", "conflict")
    ]
    assert client.get("/ledger?order=desc").json() == entries[::-1]
    assert client.get("/ledger?topic=a&topic=c").json() == entries[:2] + entries[4:]
    assert client.get("/ledger?topic=&source=&status=conflict").json() == entries[1::2]
    assert client.get("/ledger?source=again").json() == entries[::2]
    assert client.get("/ledger?topic=b&status=duplicate&source=again").json() == [entries[2]]
    stamp = entries[2]["received_at"]
    assert client.get("/ledger", params={"since": stamp}).json() == entries[2:]
    assert client.get("/ledger", params={"until": stamp, "order": "desc"}).json() == entries[:2][::-1]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 3, 10, 11])
def test_pages_link_on_inside_one_commit_and_keep_the_filters(client: TestClient, order: str, limit: int) -> None:
    events = [event(f"e-{n}", "a&b=c" if n % 2 else "é") for n in range(1, 21)]
    publish(client, *events)
    publish(client, *[{**each, "source": "x+y"} for each in events])
    pages = all_pages(client, f"/ledger?topic=a%26b%3Dc&source=x%2By&order={order}&limit={limit}")
    assert [len(page) for page in pages] == {1: [1] * 10, 3: [3, 3, 3, 1], 10: [10], 11: [10]}[limit]
    found = [name for page in pages for name in ids(page)]
    assert found == [f"e-{n}" for n in range(1, 21, 2)][:: 1 if order == "asc" else -1]


def test_without_a_limit_a_page_has_a_thousand(make_client: MakeClient) -> None:
    client = make_client()
    publish_many(client, 1400)
    publish_many(client, 1400)
    assert [len(page) for page in all_pages(client, "/ledger?event_ids=false")] == [1000, 400]
    assert "event_id" not in client.get("/ledger?event_ids=false&limit=1").json()[0]


def test_the_largest_limit_is_that_of_events(make_client: MakeClient) -> None:
    client = make_client(page_events_max=10)
    publish_many(client, 12)
    publish_many(client, 12)
    assert len(client.get("/ledger").json()) == len(client.get("/ledger?limit=10").json()) == 10
    assert violations(client.get("/ledger?limit=11")) == [("limit", "out_of_range")]


def test_a_search_that_finds_nothing_ends_early_and_links_on(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_ledger, "WINDOW_ROWS_MAX", 2)
    publish(client, event("e-1"))
    for source in ("a", "b", "c", "d", "rare"):
        publish(client, event("e-1", source=source))
    pages = all_pages(client, "/ledger?source=rare")
    assert [[each["source"] for each in page] for page in pages] == [[], [], ["rare"]]


def test_ndjson_by_parameter_and_by_accept(client: TestClient) -> None:
    publish(client, event("e-1"), event("e-1"), event("e-1"))
    for answer in (
        client.get("/ledger?format=ndjson"),
        client.get("/ledger", headers={"accept": "application/x-ndjson"}),
    ):
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert [json.loads(line) for line in answer.text.splitlines()] == client.get("/ledger").json()
        assert answer.headers["vary"] == "accept"


def test_head_says_what_get_would(client: TestClient) -> None:
    publish(client, event("e-1"), event("e-1"), event("e-1"))
    got, head = client.get("/ledger?limit=1"), client.head("/ledger?limit=1")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers == got.headers
    assert (got.headers["cache-control"], got.headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("after=17", [("after", "not_a_cursor")]),
        ("after=", [("after", "not_a_cursor")]),
        ("after=1-", [("after", "not_a_cursor")]),
        ("after=01-1", [("after", "not_a_cursor")]),
        ("after=1-9999999999999999999", [("after", "not_a_cursor")]),
        ("before=1-1", [("", "unknown_parameter")]),
        ("cursor=1-1", [("", "unknown_parameter")]),
        ("status=stored", [("status", "not_a_choice")]),
        ("event_ids=maybe", [("event_ids", "not_a_choice")]),
        ("source=a&source=b", [("source", "repeated_parameter")]),
        (
            "limit=0&order=up&since=now",
            [("since", "not_a_timestamp"), ("order", "not_a_choice"), ("limit", "out_of_range")],
        ),
        ("topic=%00", [("topic", "control_character")]),
        ("topic=%ff", [("", "not_utf8")]),
    ],
)
def test_a_wrong_parameter_is_422(reader: TestClient, query: str, told: list[tuple[str, str]]) -> None:
    assert violations(reader.get(f"/ledger?{query}")) == told


def test_a_cursor_far_behind_the_end_gives_nothing(client: TestClient) -> None:
    publish(client, event("e-1"), event("e-1"))
    largest = 2**63 - 1
    assert client.get(f"/ledger?after={largest}-{largest}").json() == []
    assert len(client.get(f"/ledger?after={largest}-{largest}&order=desc").json()) == 1


def test_a_damaged_row_is_500_and_not_served(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client()
    publish(client, event("e-1"), event("e-1"))
    publish(client, event("e-1"))
    with sqlite3.connect(tmp_path / "store.db") as connection:
        connection.execute("UPDATE ledger SET stamp_us = stamp_us + 1 WHERE commit_no = 1")
    connection.close()
    for path in ("/ledger", "/ledger?order=desc", "/ledger?since=2024-01-01T00:00:00Z"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (500, "store_corrupt")
    assert len(client.get("/ledger?after=2-0").json()) == 1
