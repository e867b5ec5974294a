"""Reading: every filter, both directions, any bound, equal to the plain model; and nothing read that need not be."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from sekali.errors import EventNotFound
from sekali.event import ReadQuery, StoredEvents
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import STAMP_US, Sent, batch_of, numbered, random_events, rows
from tests.support.model import StoreModel
from tests.support.stores import compact_fully

SECOND_US = 1_000_000
Fill = Callable[[Store], StoreModel]


def filled(store: Store, rng: random.Random, groups: int, events_max: int, topics: int = 7) -> StoreModel:
    """Groups of random size, one store second apart, now and then one with a stamp that steps back."""
    model = StoreModel()
    for number in range(groups):
        stamp_us = STAMP_US + number * SECOND_US - (3600 * SECOND_US if rng.random() < 0.1 else 0)
        ids = 50 + number * events_max
        batches = [
            batch_of(random_events(rng, rng.randrange(1, events_max), topics=topics, ids=ids))
            for _ in range(rng.randrange(1, 3))
        ]
        store.append(batches, stamp_us)
        model.append(batches, stamp_us)
    return model


def random_query(rng: random.Random, model: StoreModel) -> ReadQuery:
    """Any mixture of filters and bounds, at the edges and beyond them too."""
    end = len(model.log)
    names = [*model.figures, "never seen"]

    def offset() -> int:
        return rng.choice([0, 1, end - 1, end, end + 1, end + 1000, rng.randrange(end + 1), rng.randrange(end + 1)])

    def moment() -> int:
        return rng.choice([row.received_at_us for row in model.log]) + rng.choice([0, 0, 1, -1, SECOND_US])

    return ReadQuery(
        topics=tuple(rng.sample(names, rng.choice([0, 0, 1, 1, 2, 3]))),
        source=rng.choice([None, None, None, "web", "shipper\\1", "nobody"]),
        after=max(0, offset()) if rng.random() < 0.5 else 0,
        before=max(1, offset()) if rng.random() < 0.4 else None,
        since_us=moment() if rng.random() < 0.3 else None,
        until_us=moment() if rng.random() < 0.3 else None,
        descending=rng.random() < 0.5,
        limit=rng.choice([None, None, 1, 2, 10, 100, 10_000]),
    )


def check_queries(store: Store, model: StoreModel, rng: random.Random, count: int) -> None:
    for _ in range(count):
        query = random_query(rng, model)
        assert rows(store.read(query)) == model.read(query), query


@pytest.mark.parametrize("compacts", [False, True], ids=["tail", "runs"])
def test_every_mixture_of_filters_is_exact(open_store: OpenStore, rng: random.Random, compacts: bool) -> None:
    store = open_store(small_runs=compacts)
    model = filled(store, rng, groups=40, events_max=60)
    check_queries(store, model, rng, 100)
    check_queries(compact_fully(store), model, rng, 100)
    store.close()
    check_queries(open_store(small_runs=compacts), model, rng, 100)


@pytest.mark.slow
def test_every_mixture_of_filters_is_exact_in_a_store_of_full_sized_runs(
    open_store: OpenStore, rng: random.Random
) -> None:
    store = open_store()
    model = filled(store, rng, groups=70, events_max=2500)
    assert len(model.log) > 70_000
    check_queries(compact_fully(store), model, rng, 100)


def test_a_page_in_the_middle_of_a_run_is_that_page(open_store: OpenStore) -> None:
    """A run's blocks are sorted by topic: the first of them may lie wholly before the page."""
    store = open_store(small_runs=True)
    store.append([batch_of([*numbered(300, topic="a"), *numbered(300, topic="b")])], STAMP_US)
    compact_fully(store)
    for after in (0, 100, 299, 300, 301, 450, 599):
        found = rows(store.read(ReadQuery(after=after, limit=1)))
        assert [row.offset for row in found] == [after + 1]
        found = rows(store.read(ReadQuery(before=after + 2, limit=2, descending=True)))
        assert [row.offset for row in found] == [after + 1, after][: after + 1]


def test_paging_by_offset_gives_every_event_once_in_both_directions(open_store: OpenStore, rng: random.Random) -> None:
    store = open_store(small_runs=True)
    model = filled(store, rng, groups=30, events_max=40)
    for topics in ((), ("t3",), ("t1", "topic/é0", "t2")):
        for page in (1, 7, 100):
            query = ReadQuery(topics=topics, limit=page)
            found = []
            while run := rows(store.read(query)):
                assert len(run) <= page
                found += run
                query = replace(query, after=run[-1].offset)
            assert found == model.read(ReadQuery(topics=topics))
            query = ReadQuery(topics=topics, limit=page, descending=True)
            found = []
            while run := rows(store.read(query)):
                found += run
                query = replace(query, before=run[-1].offset)
            assert found == model.read(ReadQuery(topics=topics, descending=True))


def test_bounds_are_exclusive_since_is_inclusive_until_is_not(store: Store) -> None:
    for number in range(5):
        store.append([batch_of(numbered(1, prefix=f"p{number}"))], STAMP_US + number)

    def offsets(query: ReadQuery) -> list[int]:
        return [row.offset for row in rows(store.read(query))]

    assert offsets(ReadQuery(after=2)) == [3, 4, 5]
    assert offsets(ReadQuery(before=2)) == [1]
    assert offsets(ReadQuery(after=1, before=3)) == [2]
    assert offsets(ReadQuery(after=2, before=3)) == []
    assert offsets(ReadQuery(after=4, before=2)) == []
    assert offsets(ReadQuery(descending=True, before=4, limit=2)) == [3, 2]
    assert offsets(ReadQuery(descending=True, after=3)) == [5, 4]
    assert offsets(ReadQuery(since_us=STAMP_US + 2)) == [3, 4, 5]
    assert offsets(ReadQuery(until_us=STAMP_US + 2)) == [1, 2]
    assert offsets(ReadQuery(since_us=STAMP_US + 1, until_us=STAMP_US + 1)) == []
    assert offsets(ReadQuery(after=1 << 40)) == offsets(ReadQuery(since_us=1 << 60)) == []
    assert offsets(ReadQuery(before=1 << 62)) == [1, 2, 3, 4, 5]


def test_an_unknown_topic_and_an_empty_store_give_nothing(store: Store) -> None:
    assert rows(store.read(ReadQuery())) == rows(store.read(ReadQuery(descending=True))) == []
    store.append([batch_of(numbered(3))], STAMP_US)
    assert rows(store.read(ReadQuery(topics=("never",)))) == rows(store.read(ReadQuery(source="never"))) == []
    assert rows(store.read(ReadQuery(topics=("Alpha",)))) == rows(store.read(ReadQuery(topics=("alph",)))) == []
    assert len(rows(store.read(ReadQuery(topics=("never", "alpha", "alpha"))))) == 3


def test_a_single_event_is_found_by_its_key_and_no_other_is(open_store: OpenStore, rng: random.Random) -> None:
    store = open_store(small_runs=True)
    model = filled(store, rng, groups=30, events_max=40)
    for _ in range(2):
        for row in rng.sample(model.log, 60):
            assert rows([store.event(*row.key)]) == [row]
        for key in (("t0", "never"), ("never", model.log[0].event_id), (model.log[0].event_id, model.log[0].topic)):
            with pytest.raises(EventNotFound):
                store.event(*key)
        store.close()
        store = open_store(small_runs=True)


def test_seen_answers_each_key_in_order_and_publishes_nothing(open_store: OpenStore, rng: random.Random) -> None:
    store = open_store(small_runs=True)
    model = filled(store, rng, groups=20, events_max=40)
    keys = [row.key for row in rng.sample(model.log, 100)] + [("t0", f"never-{i}") for i in range(100)]
    rng.shuffle(keys)
    keys += keys[:5]
    before = store.totals()
    answers = store.seen(keys)
    expected = [model.by_key.get(key) for key in keys]
    assert [(a.seen, a.offset) for a in answers] == [(row is not None, row.offset if row else 0) for row in expected]
    assert store.totals() == before
    assert store.seen([]) == []


def test_a_read_can_be_stopped_early_and_gives_runs_of_bounded_size(store: Store) -> None:
    store.append([batch_of(numbered(40_000))], STAMP_US)
    runs = store.read(ReadQuery())
    first = next(runs)
    assert 0 < len(first) <= 10_000
    runs.close()  # type: ignore[attr-defined]
    sizes = [len(run) for run in store.read(ReadQuery())]
    assert sum(sizes) == 40_000
    assert max(sizes) <= 10_000


def test_reads_run_on_while_events_are_appended_and_compacted(open_store: OpenStore, rng: random.Random) -> None:
    """Every reader sees exactly the events up to its own end, in order, though runs replace commits meanwhile."""
    store = open_store(small_runs=True)
    stop = threading.Event()
    faults: list[object] = []
    seeds = [rng.random() for _ in range(2)]

    def read_on(seed: float) -> None:
        own = random.Random(seed)
        while not stop.is_set():
            end = store.last_offset
            query = ReadQuery(
                before=end + 1, topics=own.choice([(), ("t1",), ("t0", "t2")]), descending=own.random() < 0.5
            )
            found = rows(store.read(query))
            offsets = [row.offset for row in found]
            if offsets != sorted(set(offsets), reverse=query.descending) or (not query.topics and len(offsets) != end):
                faults.append((query, len(offsets), end))
            if query.topics and any(row.topic not in query.topics for row in found):
                faults.append((query, "another topic"))

    readers = [threading.Thread(target=read_on, args=(seed,)) for seed in seeds]
    for reader in readers:
        reader.start()
    model = filled(store, rng, groups=80, events_max=60)
    stop.set()
    for reader in readers:
        reader.join()
    assert not faults, faults[:3]
    check_queries(store, model, rng, 30)


def test_a_slow_reader_holds_no_read_transaction_between_runs(open_store: OpenStore) -> None:
    """A read that was begun and not driven on does not keep the write-ahead log from being emptied."""
    store = open_store()
    store.append([batch_of(numbered(30_000))], STAMP_US)
    runs = store.read(ReadQuery())
    first: StoredEvents = next(runs)
    for number in range(20):
        store.append([batch_of(numbered(2000, prefix=f"later-{number}"))], STAMP_US)
    store.close()
    reopened = open_store()
    assert reopened.last_offset == 70_000
    assert len(first) > 0


@pytest.mark.parametrize("reopened", [False, True])
def test_a_rare_topic_among_5000_is_read_without_scanning_the_log(open_store: OpenStore, reopened: bool) -> None:
    store = open_store(small_runs=True)
    rare = []
    for number in range(40):
        sent = [
            Sent(f"topic-{i % 5000:04}", f"{number}-{i}", b'{"n":%d}' % i)
            for i in range(number * 1000, number * 1000 + 1000)
        ]
        if number % 13 == 5:
            sent[500:500] = [Sent("rare", f"rare-{number}", b"{}")]
            rare.append(f"rare-{number}")
        store.append([batch_of(sent)], STAMP_US + number)
    compact_fully(store)
    if reopened:
        store.close()
        store = open_store(small_runs=True)
    before = store.blocks_read
    assert [row.event_id for row in rows(store.read(ReadQuery(topics=("rare",))))] == rare
    for_rare = store.blocks_read - before
    assert len(rows(store.read(ReadQuery()))) == 40_003
    for_all = store.blocks_read - before - for_rare
    # One block, or one commit that is not compacted yet, for each of its three events.
    assert for_rare <= 3 < for_all / 10
