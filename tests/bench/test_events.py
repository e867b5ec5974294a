"""The events that the suite publishes."""

from __future__ import annotations

import json
import uuid

import pytest

from bench.events import EventPlan, bodies, topic_names


def decoded(plan: EventPlan) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for body in bodies(plan):
        value = json.loads(body.data)
        found += value if isinstance(value, list) else [value]
    return found


def test_every_event_is_counted_and_the_last_body_is_shorter(seed: int) -> None:
    made = list(bodies(EventPlan(2500, 1000, seed)))
    assert [body.events for body in made] == [1000, 1000, 500]
    assert [len(json.loads(body.data)) for body in made] == [1000, 1000, 500]


def test_a_batch_of_one_is_a_bare_object(seed: int) -> None:
    (body,) = bodies(EventPlan(1, 1, seed))
    assert set(json.loads(body.data)) == {"topic", "event_id", "timestamp", "source", "payload"}


def test_new_counts_the_distinct_keys_when_a_third_are_repeats(seed: int) -> None:
    plan = EventPlan(3000, 100, seed, dup=1 / 3)
    keys = {(event["topic"], event["event_id"]) for event in decoded(plan)}
    new = sum(body.new for body in bodies(plan))
    assert new == len(keys)
    assert 1900 < new < 2100


def test_a_repeat_is_the_very_bytes_of_the_first(seed: int) -> None:
    first: dict[object, object] = {}
    for event in decoded(EventPlan(2000, 100, seed, dup=0.5)):
        assert first.setdefault(event["event_id"], event) == event


def test_the_same_seed_gives_the_same_random_ids_and_another_seed_others(seed: int) -> None:
    def ids(of: int) -> list[object]:
        return [event["event_id"] for event in decoded(EventPlan(50, 10, of))]

    assert ids(seed) == ids(seed)
    assert not set(ids(seed)) & set(ids(seed + 1))


@pytest.mark.parametrize(("kind", "version"), [("random", 4), ("ordered", 7)])
def test_ids_are_valid_uuids_of_the_version_asked_for(seed: int, kind: str, version: int) -> None:
    ids = [uuid.UUID(str(event["event_id"])) for event in decoded(EventPlan(500, 100, seed, ids=kind))]  # type: ignore[arg-type]
    assert {each.version for each in ids} == {version}
    assert {each.variant for each in ids} == {uuid.RFC_4122}
    assert (ids == sorted(ids)) is (kind == "ordered")


def test_events_are_about_two_hundred_bytes_and_all_topics_occur(seed: int) -> None:
    plan = EventPlan(2000, 1, seed, topics=20)
    sizes = [len(body.data) for body in bodies(plan)]
    assert 190 < sum(sizes) / len(sizes) < 230
    assert {event["topic"] for event in decoded(plan)} == set(topic_names(20))
