"""Memory: what one group, and one step of a read, hold at a time is bounded however large the events are."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator

import pytest

from sekali.event import LedgerQuery, ReadQuery
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import CONFLICT, STAMP_US, Sent, batch_of, numbered, receipts
from tests.support.ledger import whole_ledger
from tests.support.stores import SMALL_RUNS, compact_fully

PAYLOAD_BYTES = 1 << 20


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


def large(number: int, value: str) -> Sent:
    return Sent("large", f"e-{number}", b'{"v":"%b"}' % (value.encode() * PAYLOAD_BYTES))


def test_a_group_of_conflicts_holds_one_stored_payload_at_a_time(store: Store, traced: None) -> None:
    for number in range(24):
        store.append([batch_of([large(number, "a")])], STAMP_US)
    again = batch_of([large(number, "b") for number in range(24)])
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    assert {status for status, _ in receipts(store.append([again], STAMP_US)[0])} == {CONFLICT}
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before < 12 * PAYLOAD_BYTES


def test_a_page_of_a_topic_takes_few_blocks_at_a_time_whatever_its_limit(open_store: OpenStore) -> None:
    """Blocks are cut by size: of large events each holds one, so a window must not count events alone."""
    store = open_store(small_runs=True)
    for number in range(60):
        events = [Sent("large", f"{number}-{each}", b'{"v":"%b"}' % (b"a" * PAYLOAD_BYTES)) for each in range(2)]
        store.append([batch_of([*events, *numbered(20, topic="small", prefix=f"{number}-")])], STAMP_US)
    compact_fully(store)
    blocks_of_a_run = 2 * SMALL_RUNS.run_commits_max
    for descending in (False, True):
        seen = steps = 0
        read_before = store.blocks_read
        for events in store.read(ReadQuery(topics=("large",), limit=1000, descending=descending)):
            assert store.blocks_read - read_before <= 32 + blocks_of_a_run
            read_before = store.blocks_read
            seen += len(events)
            steps += 1
        assert seen == 120
        assert steps > 2


def test_a_page_of_the_ledger_holds_one_block_at_a_time_while_it_looks_ids_up(store: Store, traced: None) -> None:
    for number in range(24):
        store.append([batch_of([large(number, "a")])], STAMP_US)
    for number in range(24):
        store.append([batch_of([large(number, "a")])], STAMP_US)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    page = store.ledger(LedgerQuery(with_event_ids=True))
    _, peak = tracemalloc.get_traced_memory()
    assert [entry.event_id for entry in page.entries] == [f"e-{number}" for number in range(24)]
    assert peak - before < 8 * PAYLOAD_BYTES


def test_a_page_of_the_ledger_is_bounded_by_the_bytes_of_the_refused_payloads(store: Store, traced: None) -> None:
    events = numbered(60)
    for number in range(100):
        refused = [Sent(each.topic, each.event_id, b'["%04000d"]' % number) for each in events]
        store.append([batch_of(refused)], STAMP_US)
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    page = store.ledger(LedgerQuery(limit=10_000))
    _, peak = tracemalloc.get_traced_memory()
    assert 1_000 < len(page.entries) < 3_000
    assert peak - before < 16 * PAYLOAD_BYTES
    assert len(whole_ledger(store, limit=10_000)) == store.totals().duplicates
