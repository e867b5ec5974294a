"""Statistics, topics and health over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from sekali.http.app import SekaliApp
from sekali.hub import Hub, HubReadiness
from tests.http.conftest import MakeClient
from tests.support.publishing import event, publish, publish_many


def hub_of(client: TestClient) -> Hub:
    app = client.app
    assert isinstance(app, SekaliApp)
    assert app.lifecycle.current is not None
    return app.lifecycle.current.hub


def test_stats_of_an_empty_store(client: TestClient) -> None:
    stats = client.get("/stats").json()
    first_eight = ["received", "unique_processed", "duplicate_dropped", "topics"]
    first_eight += ["uptime_seconds", "queue_depth", "workers", "db_path"]
    assert list(stats)[:8] == first_eight
    assert [stats[name] for name in first_eight[:4]] == [0, 0, 0, []]
    assert stats["db_path"] == hub_of(client).settings.db_path


def test_stats_add_up(client: TestClient) -> None:
    publish(client, event("e-1"), event("e-2", "beta"), event("e-1"))
    publish(client, event("e-1", payload={"other": 1}))
    client.post("/publish", json=[{"topic": "bad"}])
    stats = client.get("/stats").json()
    assert (stats["received"], stats["unique_processed"], stats["duplicate_dropped"], stats["conflicts"]) == (
        4,
        2,
        2,
        1,
    )
    assert (stats["topics"], stats["topics_total"], stats["queue_depth"]) == (["alpha", "beta"], 2, 0)


def test_topics_tell_the_figures_of_each(client: TestClient) -> None:
    publish(client, event("e-1", "b"), event("e-1", "a"), event("e-2", "b"), event("e-1", "b"))
    publish(client, event("e-1", "b", payload={"x": 1}))
    a, b = client.get("/topics").json()
    times = {each["offset"]: each["received_at"] for each in client.get("/events").json()}
    assert a == {
        "topic": "a",
        "events": 1,
        "duplicates": 0,
        "conflicts": 0,
        "first_offset": 2,
        "last_offset": 2,
        "first_received_at": times[2],
        "last_received_at": times[2],
    }
    assert (b["events"], b["duplicates"], b["conflicts"], b["first_offset"], b["last_offset"]) == (2, 2, 1, 1, 3)


@pytest.mark.parametrize("total", [0, 1, 6, 7])
def test_topics_come_in_pages_that_link_on_exactly_if_there_is_more(client: TestClient, total: int) -> None:
    names = ["é", "a&b=c", "Z", "日本 語", "a/b", "+", "%41"][:total]
    if names:
        publish_many(client, total, names)
    path, pages = "/topics?limit=3", []
    while path:
        answer = client.get(path)
        assert answer.status_code == 200
        pages.append([each["topic"] for each in answer.json()])
        path = answer.links.get("next", {}).get("url", "")
    assert [len(page) for page in pages] == {0: [0], 1: [1], 6: [3, 3], 7: [3, 3, 1]}[total]
    assert [name for page in pages for name in page] == sorted(names, key=str.encode)


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "after=%00", "order=desc", "after=a&after=b"])
def test_a_wrong_parameter_of_topics_is_422(reader: TestClient, query: str) -> None:
    answer = reader.get(f"/topics?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter")


def test_stats_takes_no_parameter(reader: TestClient) -> None:
    assert reader.get("/stats?topic=a").status_code == 422


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/healthz?from=probe"])
def test_health_is_ok(reader: TestClient, path: str) -> None:
    assert reader.get(path).json() == {"ok": True}


def test_ready_when_a_publish_would_be_taken(client: TestClient) -> None:
    publish_many(client, 5)
    assert client.get("/readyz").json() == {"ok": True, "index": {"done": 5, "total": 5}}


def test_not_ready_says_every_reason_and_the_progress(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    found = HubReadiness(("the disk is full", "the seen index is being rebuilt"), 40, 100)
    monkeypatch.setattr(hub_of(client), "readiness", lambda: found)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    document = answer.json()
    assert (document["code"], document["index"]) == ("not_ready", {"done": 40, "total": 100})
    assert all(reason in document["detail"] for reason in found.reasons)
    assert client.head("/readyz").status_code == 503


def test_a_draining_server_is_alive_and_not_ready(make_client: MakeClient) -> None:
    client = make_client()
    hub_of(client).start_draining()
    assert client.get("/healthz").status_code == 200
    assert client.get("/livez").status_code == 200
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
    assert "shutting down" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/stats", "/topics", "/topics?limit=1", "/healthz", "/livez", "/readyz"])
def test_head_says_what_get_would(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "uptime_s", 1.0)
    publish_many(client, 4, ["a", "b"])
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers == got.headers
    assert headers_of(got) == ("application/json", "no-store", "nosniff")


def headers_of(answer: Any) -> tuple[str, str, str]:
    headers = answer.headers
    return headers["content-type"], headers["cache-control"], headers["x-content-type-options"]
