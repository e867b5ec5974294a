"""Counters and per-topic figures: they add up at every moment, and cost no scan."""

from __future__ import annotations

import random
import threading

from sekali.event import ReadQuery, TopicFigures
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import STAMP_US, Sent, batch, batch_of, numbered, random_events, rows
from tests.support.model import StoreModel, check_figures, check_totals


def test_counters_are_exact_after_every_group_and_every_reopening(open_store: OpenStore, rng: random.Random) -> None:
    model = StoreModel()
    store = open_store(small_runs=True)
    for number in range(60):
        batches = [batch_of(random_events(rng, rng.randrange(1, 30), ids=400)) for _ in range(rng.randrange(1, 4))]
        stamp_us = STAMP_US + rng.randrange(-5, 50) * 1_000_000
        store.append(batches, stamp_us)
        model.append(batches, stamp_us)
        check_totals(store.totals(), model)
        check_figures(store.topic_figures(), model)
        assert store.totals().store_time_us == model.store_time_us
        if number % 12 == 11:
            store.close()
            store = open_store(small_runs=True)
            check_totals(store.totals(), model)
            check_figures(store.topic_figures(), model)


def test_counters_add_up_at_every_moment_while_threads_append(store: Store, rng: random.Random) -> None:
    stop = threading.Event()
    faults: list[str] = []

    def watch() -> None:
        last = 0
        while not stop.is_set():
            totals = store.totals()
            if totals.received != totals.unique + totals.duplicates or totals.conflicts > totals.duplicates:
                faults.append(f"{totals}")
            if totals.unique != totals.last_offset or totals.received < last:
                faults.append(f"{totals} after {last}")
            last = totals.received

    def append(seed: float) -> None:
        own = random.Random(seed)
        for _ in range(25):
            store.append([batch_of(random_events(own, 20, ids=100))], STAMP_US)

    watcher = threading.Thread(target=watch)
    writers = [threading.Thread(target=append, args=(rng.random(),)) for _ in range(4)]
    for thread in (watcher, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    watcher.join()
    assert not faults, faults[:3]
    assert store.totals().received == 4 * 25 * 20
    assert store.totals().unique == len(rows(store.read(ReadQuery())))


def test_a_topic_knows_its_first_and_last_event(open_store: OpenStore) -> None:
    store = open_store()
    store.append([batch(Sent("b", "1"), Sent("a", "1"), Sent("b", "2"))], STAMP_US)
    store.append([batch(Sent("b", "1"), Sent("a", "1", b'{"x":1}'), Sent("a", "2"))], STAMP_US + 7)
    expected = [
        TopicFigures("a", 2, 1, 1, first_offset=2, last_offset=4, first_at_us=STAMP_US, last_at_us=STAMP_US + 7),
        TopicFigures("b", 2, 1, 0, first_offset=1, last_offset=3, first_at_us=STAMP_US, last_at_us=STAMP_US),
    ]
    assert store.topic_figures() == expected
    store.close()
    assert open_store().topic_figures() == expected


def test_topics_are_sorted_by_their_bytes_and_paged(open_store: OpenStore) -> None:
    names = ["Z", "a", "aa", "b", "z", "\u00e9", "\u0131", "\u30bd", "\uff5e", "\U0001f600", "a b", "%2e", "../x"]
    store = open_store()
    store.append([batch_of([Sent(name, "e") for name in names])], STAMP_US)
    for _ in range(2):
        in_order = sorted(names, key=lambda name: name.encode())
        assert [figures.name for figures in store.topic_figures()] == in_order
        assert store.topic_names(1000) == in_order
        assert store.topic_names(3) == in_order[:3]
        paged, after = [], ""
        while page := store.topic_figures(after=after, limit=4):
            paged += [figures.name for figures in page]
            after = paged[-1]
        assert paged == in_order
        assert [figures.name for figures in store.topic_figures(after="a!", limit=2)] == ["aa", "b"]
        store.close()
        store = open_store()


def test_figures_given_out_do_not_change_afterwards(store: Store) -> None:
    store.append([batch_of(numbered(2))], STAMP_US)
    (figures,), totals, names = store.topic_figures(), store.totals(), store.topic_names(10)
    store.append([batch_of(numbered(5)), batch(Sent("zulu", "1"))], STAMP_US)
    assert (figures.events, totals.unique, names) == (2, 2, ["alpha"])


def test_a_topic_of_5000_costs_no_row_for_each_commit(open_store: OpenStore, rng: random.Random) -> None:
    """Figures of many topics are exact through folding, compaction and reopening."""
    store = open_store(small_runs=True)
    model = StoreModel()
    for number in range(25):
        sent = [
            Sent(f"topic-{rng.randrange(5000)}", f"e-{rng.randrange(3)}", b'{"n":%d}' % (number % 2))
            for _ in range(1000)
        ]
        store.append([batch_of(sent)], STAMP_US + number)
        model.append([batch_of(sent)], STAMP_US + number)
    check_totals(store.totals(), model)
    check_figures(store.topic_figures(limit=1_000_000), model)
    store.close()
    store = open_store(small_runs=True)
    check_totals(store.totals(), model)
    check_figures(store.topic_figures(limit=1_000_000), model)
