"""Atomicity, durability, order, visibility and idempotence of appending, as the store's contract states them."""

from __future__ import annotations

import random
import threading

import pytest

from sekali.errors import SekaliError, TooManyTopics
from sekali.event import ReadQuery
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import (
    CONFLICT,
    DUPLICATE,
    STAMP_US,
    STORED,
    Sent,
    batch,
    batch_of,
    numbered,
    random_events,
    receipts,
    rows,
)
from tests.support.model import StoreModel, check_figures, check_totals

EVERYTHING = ReadQuery()
US_1970 = 0
US_2038 = 2_147_483_648_000_000


def told(store: Store, *batches: list[Sent], stamp_us: int = STAMP_US) -> list[list[tuple[int, int]]]:
    return [receipts(outcome) for outcome in store.append([batch_of(sent) for sent in batches], stamp_us)]


# Order


def test_offsets_start_at_one_and_follow_the_order_of_sending(store: Store) -> None:
    assert told(store, numbered(3), numbered(2, topic="beta")) == [
        [(STORED, 1), (STORED, 2), (STORED, 3)],
        [(STORED, 4), (STORED, 5)],
    ]
    assert [row.offset for row in rows(store.read(EVERYTHING))] == [1, 2, 3, 4, 5]
    assert store.last_offset == 5


def test_offsets_have_no_gap_where_events_were_refused(store: Store) -> None:
    told(store, numbered(4))
    assert told(store, numbered(6)) == [
        [(DUPLICATE, 1), (DUPLICATE, 2), (DUPLICATE, 3), (DUPLICATE, 4), (STORED, 5), (STORED, 6)]
    ]


def test_offsets_go_on_after_reopening(open_store: OpenStore) -> None:
    store = open_store()
    told(store, numbered(10))
    store.close()
    assert told(open_store(), numbered(1, prefix="later")) == [[(STORED, 11)]]


def test_offsets_are_not_used_again_after_a_group_that_failed(open_store: OpenStore) -> None:
    store = open_store(topics_max=2)
    told(store, numbered(2, topic="a"), numbered(2, topic="b"))
    with pytest.raises(TooManyTopics):
        told(store, numbered(5, topic="a", prefix="x"), numbered(1, topic="c"))
    assert told(store, numbered(3, topic="a", prefix="y")) == [[(STORED, 5), (STORED, 6), (STORED, 7)]]


def test_store_time_never_steps_back_though_stamps_do(open_store: OpenStore) -> None:
    store = open_store()
    stamps = [STAMP_US, US_1970, STAMP_US + 1, US_2038, STAMP_US, US_1970, US_2038 + 5]
    for number, stamp_us in enumerate(stamps):
        told(store, numbered(2, prefix=f"p{number}"), stamp_us=stamp_us)
    expected = [STAMP_US, STAMP_US, STAMP_US + 1, US_2038, US_2038, US_2038, US_2038 + 5]
    assert [row.received_at_us for row in rows(store.read(EVERYTHING))[::2]] == expected
    store.close()
    store = open_store()
    told(store, numbered(1, prefix="reopened"), stamp_us=STAMP_US)
    assert rows(store.read(EVERYTHING))[-1].received_at_us == US_2038 + 5
    assert store.totals().store_time_us == US_2038 + 5


def test_a_commit_of_duplicates_moves_store_time_too(store: Store) -> None:
    told(store, numbered(1), stamp_us=STAMP_US)
    told(store, numbered(1), stamp_us=US_2038)
    told(store, numbered(1, prefix="next"), stamp_us=STAMP_US)
    assert [row.received_at_us for row in rows(store.read(EVERYTHING))] == [STAMP_US, US_2038]


# Atomicity


def test_a_group_that_is_refused_leaves_nothing_behind(open_store: OpenStore) -> None:
    store = open_store(topics_max=3)
    told(store, numbered(2, topic="kept"))
    before = store.totals(), store.topic_figures(), rows(store.read(EVERYTHING))
    with pytest.raises(TooManyTopics):
        told(store, numbered(3, topic="kept"), [Sent(f"new-{i}", "e") for i in range(3)])
    assert (store.totals(), store.topic_figures(), rows(store.read(EVERYTHING))) == before
    assert [answer.seen for answer in store.seen([("kept", "e-2"), ("new-0", "e")])] == [False, False]
    store.close()
    store = open_store(topics_max=3)
    assert (store.totals(), store.topic_figures(), rows(store.read(EVERYTHING))) == before


def test_a_prepared_group_that_is_never_committed_leaves_nothing_behind(store: Store) -> None:
    store.prepare([batch_of(numbered(5))])
    assert rows(store.read(EVERYTHING)) == []
    assert told(store, numbered(1)) == [[(STORED, 1)]]
    assert store.totals().received == 1


# Durability


def test_everything_is_there_after_reopening(open_store: OpenStore, rng: random.Random) -> None:
    model = StoreModel()
    for _ in range(4):
        store = open_store()
        for _ in range(5):
            batches = [batch_of(random_events(rng, rng.randrange(1, 40))) for _ in range(rng.randrange(1, 4))]
            assert [receipts(o) for o in store.append(batches, STAMP_US)] == model.append(batches, STAMP_US)
        store.close()
        store = open_store()
        assert rows(store.read(EVERYTHING)) == model.log
        check_totals(store.totals(), model)
        check_figures(store.topic_figures(), model)
        store.close()


def test_every_field_comes_back_as_it_was_sent(open_store: OpenStore) -> None:
    sent = [
        Sent("t", "plain"),
        Sent(
            "T",
            'quo"te\\',
            b'{"a": 1.10, "b": 18446744073709551617, "a":2 }',
            'so"urce',
            "2024-01-01T00:00:00.123456789Z",
        ),
        Sent(
            "\u202etopic \U0001f600",
            "é" * 127,
            b'{\n "nested":[{"x":[]}]}',
            "\u0131",
            "20240101T000000",
            b'"trace":"x","n":[1, 2]',
        ),
        Sent("../..", "e" * 255, b'{"text":"' + b"x" * 70_000 + b'"}', "s" * 1024, "2024-01-01"),
        Sent("%2e*>$SYS", "-", b'{"\\u0000":"\\u0000"}', "a b", "2024-01-01T00:00:00Z", b'"late":null'),
    ]
    store = open_store()
    told(store, sent)
    for _ in range(2):
        found = rows(store.read(EVERYTHING))
        assert [Sent(r.topic, r.event_id, r.payload, r.source, r.timestamp, r.extra) for r in found] == sent
        for one in sent:
            (row,) = rows([store.event(*one.key)])
            assert (row.key, row.payload, row.extra) == (one.key, one.payload, one.extra)
        store.close()
        store = open_store()


# Visibility


def test_what_was_committed_is_visible_everywhere_at_once(store: Store) -> None:
    for number in range(50):
        (offset,) = (offset for _, offset in told(store, [Sent("t", f"e-{number}", b'{"n":%d}' % number)])[0])
        assert [row.offset for row in rows(store.read(ReadQuery(after=number)))] == [offset]
        assert rows([store.event("t", f"e-{number}")])[0].offset == offset
        assert [(a.seen, a.offset) for a in store.seen([("t", f"e-{number}")])] == [(True, offset)]
        assert store.totals().unique == store.last_offset == offset
        assert store.topic_figures()[0].last_offset == offset
    assert store.topic_names(10) == ["t"]


def test_what_is_only_prepared_is_not_visible(store: Store) -> None:
    group = store.prepare([batch_of(numbered(3))])
    assert rows(store.read(EVERYTHING)) == []
    assert [answer.seen for answer in store.seen([("alpha", "e-0")])] == [False]
    assert store.totals().received == 0
    store.commit(group, STAMP_US)
    assert len(rows(store.read(EVERYTHING))) == 3


def test_the_end_of_a_read_is_fixed_when_it_is_called(store: Store) -> None:
    told(store, numbered(5))
    runs = store.read(EVERYTHING)
    told(store, numbered(5, prefix="later"))
    assert [row.offset for row in rows(runs)] == [1, 2, 3, 4, 5]


def test_readers_never_see_part_of_a_group_or_a_gap_while_it_is_written(store: Store) -> None:
    stop = threading.Event()
    faults: list[str] = []

    def read_on() -> None:
        seen_before = 0
        while not stop.is_set():
            claimed = store.totals()
            found = rows(store.read(EVERYTHING))
            if [row.offset for row in found] != list(range(1, len(found) + 1)):
                faults.append("a gap")
            if len(found) % 7:
                faults.append(f"part of a group: {len(found)} events")
            if len(found) < max(claimed.unique, seen_before) or claimed.received != claimed.unique + claimed.duplicates:
                faults.append("fewer events than were visible before")
            seen_before = len(found)

    readers = [threading.Thread(target=read_on) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(60):
        told(store, numbered(4, prefix=f"a{number}"), numbered(3, prefix=f"b{number}"))
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults, faults[:3]


# Idempotence


def test_appending_a_group_again_stores_nothing(open_store: OpenStore, rng: random.Random) -> None:
    store = open_store()
    batches = [batch_of(numbered(30)), batch_of(random_events(rng, 60, ids=60))]
    first = [receipts(outcome) for outcome in store.append(batches, STAMP_US)]
    kept = rows(store.read(EVERYTHING))
    for _ in range(2):
        again = [receipts(outcome) for outcome in store.append(batches, STAMP_US)]
        assert [[offset for _, offset in one] for one in again] == [[offset for _, offset in one] for one in first]
        assert {status for one in again for status, _ in one} <= {DUPLICATE, CONFLICT}
        assert list(rows(store.read(EVERYTHING))) == kept
        store.close()
        store = open_store()
    assert store.totals().received == 3 * 90


def test_a_group_of_nothing_but_duplicates_has_one_outcome_for_each_batch(store: Store) -> None:
    told(store, numbered(2))
    outcomes = store.append([batch_of(numbered(2)), batch(), batch_of(numbered(1))], STAMP_US)
    assert [receipts(outcome) for outcome in outcomes] == [[(DUPLICATE, 1), (DUPLICATE, 2)], [], [(DUPLICATE, 1)]]


def test_an_empty_group_is_no_event(store: Store) -> None:
    assert store.append([], STAMP_US) == []
    assert [receipts(outcome) for outcome in store.append([batch(), batch()], STAMP_US)] == [[], []]
    assert store.totals().received == store.last_offset == 0


def test_a_single_event_and_a_large_group_are_appended_alike(store: Store) -> None:
    assert told(store, [Sent("t", "one")]) == [[(STORED, 1)]]
    (many,) = told(store, numbered(50_000))
    assert many == [(STORED, offset) for offset in range(2, 50_002)]
    assert store.totals().unique == 50_001


# Errors


def test_a_closed_store_takes_nothing(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises((SekaliError, AssertionError)):
        told(store, numbered(1))
