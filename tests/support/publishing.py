"""Events as JSON, and publishing them through a test client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi.testclient import TestClient

Event = dict[str, Any]


def event(event_id: str, topic: str = "alpha", **members: Any) -> Event:
    sent = {"topic": topic, "event_id": event_id, "timestamp": "2024-01-01T00:00:00Z", "source": "test", "payload": {}}
    return {**sent, **members}


def publish(client: TestClient, *events: Event) -> None:
    """In one request; everything is stored, or a duplicate, when it returns."""
    answer = client.post("/publish", json=list(events))
    assert answer.status_code == 200, answer.text


def publish_many(client: TestClient, count: int, topics: Sequence[str] = ("alpha",), **members: Any) -> list[Event]:
    """`count` events `e-1`, `e-2`, ... whose topics take turns, in several requests; the n-th has offset n."""
    events = [event(f"e-{n}", topics[n % len(topics)], **members) for n in range(1, count + 1)]
    for start in range(0, count, 700):
        publish(client, *events[start : start + 700])
    return events


def ids(answer_json: list[Event]) -> list[str]:
    return [each["event_id"] for each in answer_json]
