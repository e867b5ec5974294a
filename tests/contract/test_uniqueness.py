"""For each (topic, event_id) one stored event, the first; conflicts as JSON values; whoever races whom."""

from __future__ import annotations

import random
import threading
import zlib
from typing import NoReturn

import pytest

from sekali.event import EventBatch, ReadQuery
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import CONFLICT, DUPLICATE, STAMP_US, STORED, Sent, batch, batch_of, numbered, receipts, rows
from tests.support.stores import wait_for

EVERYTHING = ReadQuery()
A, B = b'{"v":"a"}', b'{"v":"b"}'


def told(store: Store, *batches: EventBatch) -> list[list[tuple[int, int]]]:
    return [receipts(outcome) for outcome in store.append(batches, STAMP_US)]


def test_the_first_of_equal_keys_in_a_batch_is_kept(store: Store) -> None:
    sent = batch(Sent("t", "x", A), Sent("t", "y", A), Sent("t", "x", A), Sent("t", "x", B), Sent("t", "y", A))
    assert told(store, sent) == [[(STORED, 1), (STORED, 2), (DUPLICATE, 1), (CONFLICT, 1), (DUPLICATE, 2)]]
    assert [row.payload for row in rows(store.read(EVERYTHING))] == [A, A]


def test_the_first_of_equal_keys_in_a_group_is_kept(store: Store) -> None:
    first, second = batch(Sent("t", "x", A), Sent("t", "z", A)), batch(Sent("t", "y", A), Sent("t", "x", B))
    assert told(store, first, second, second) == [
        [(STORED, 1), (STORED, 2)],
        [(STORED, 3), (CONFLICT, 1)],
        [(DUPLICATE, 3), (CONFLICT, 1)],
    ]


def test_the_first_of_equal_keys_over_groups_is_kept(store: Store) -> None:
    assert told(store, batch(Sent("t", "x", A))) == [[(STORED, 1)]]
    assert told(store, batch(Sent("t", "x", A)), batch(Sent("t", "x", B))) == [[(DUPLICATE, 1)], [(CONFLICT, 1)]]


def test_the_first_of_equal_keys_over_reopening_is_kept(open_store: OpenStore) -> None:
    for round_no in range(3):
        store = open_store()
        expected = (STORED, 1) if round_no == 0 else (DUPLICATE, 1)
        assert told(store, batch(Sent("t", "x", A)))[0] == [expected]
        assert told(store, batch(Sent("t", "x", B)))[0] == [(CONFLICT, 1)]
        store.close()
    assert [row.payload for row in rows(open_store().read(EVERYTHING))] == [A]


def test_the_same_id_in_another_topic_is_another_event(store: Store) -> None:
    assert told(store, batch(Sent("t", "x", A), Sent("u", "x", B), Sent("T", "x", A))) == [
        [(STORED, 1), (STORED, 2), (STORED, 3)]
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a", "bc"), ("ab", "c")),
        (("Stra\u00dfe", "x"), ("STRASSE", "x")),
        (("caf\u00e9", "x"), ("cafe\u0301", "x")),
        (("t", "x"), ("t", "X")),
        (("t", "1"), ("t", "01")),
        (("t", "\u0131"), ("t", "i")),
    ],
)
def test_names_are_compared_byte_for_byte(store: Store, one: tuple[str, str], other: tuple[str, str]) -> None:
    assert told(store, batch(Sent(*one), Sent(*other), Sent(*one))) == [[(STORED, 1), (STORED, 2), (DUPLICATE, 1)]]


def test_a_key_is_known_wherever_it_is_kept(open_store: OpenStore) -> None:
    """Just committed, written to the index, and after reopening: a duplicate each time, of the same offset."""
    store = open_store()
    told(store, batch_of(numbered(20_000)))
    assert told(store, batch_of(numbered(3)))[0] == [(DUPLICATE, 1), (DUPLICATE, 2), (DUPLICATE, 3)]
    told(store, batch_of(numbered(20_000, prefix="more")))
    assert {status for status, _ in told(store, batch_of(numbered(20_000)))[0]} == {DUPLICATE}
    store.close()
    store = open_store()
    assert told(store, batch_of(numbered(20_000, prefix="more")))[0] == [(DUPLICATE, n) for n in range(20_001, 40_001)]


# Racing threads


def test_eight_threads_race_the_same_ids_and_one_payload_wins_each(open_store: OpenStore, rng: random.Random) -> None:
    store = open_store()
    ids = [f"id-{number}" for number in range(400)]
    barrier = threading.Barrier(8)
    answers: dict[int, list[tuple[str, int, int]]] = {thread: [] for thread in range(8)}
    orders = {thread: rng.sample(ids, len(ids)) for thread in range(8)}

    def race(thread: int) -> None:
        barrier.wait()
        for start in range(0, len(ids), 20):
            chosen = orders[thread][start : start + 20]
            sent = batch_of([Sent("t", event_id, b'{"by":%d}' % thread) for event_id in chosen])
            for event_id, (status, offset) in zip(chosen, told(store, sent)[0], strict=True):
                answers[thread].append((event_id, status, offset))

    threads = [threading.Thread(target=race, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for event_id in ids:
        given = [
            (thread, status, offset) for thread in answers for i, status, offset in answers[thread] if i == event_id
        ]
        assert len(given) == 8
        assert len({offset for _, _, offset in given}) == 1, f"{event_id}: told of several offsets"
        winners = [thread for thread, status, _ in given if status == STORED]
        assert len(winners) == 1, f"{event_id}: stored by {winners}"
        assert rows([store.event("t", event_id)])[0].payload == b'{"by":%d}' % winners[0]
        assert sum(status == CONFLICT for _, status, _ in given) == 7
    totals = store.totals()
    assert (totals.unique, totals.duplicates, totals.conflicts) == (400, 2800, 2800)
    assert [row.offset for row in rows(store.read(EVERYTHING))] == list(range(1, 401))


@pytest.mark.parametrize("commit_first", [0, 1])
def test_of_two_prepared_groups_with_the_same_key_the_first_committed_wins(store: Store, commit_first: int) -> None:
    """Both found the key unknown when they were prepared; a batch repeats it inside as well."""
    payloads = (A, B)
    groups = [store.prepare([batch(Sent("t", "x", p), Sent("t", f"own-{p!r}"), Sent("t", "x", p))]) for p in payloads]
    winner, loser = groups[commit_first], groups[1 - commit_first]
    assert receipts(store.commit(winner, STAMP_US)[0]) == [(STORED, 1), (STORED, 2), (DUPLICATE, 1)]
    assert receipts(store.commit(loser, STAMP_US)[0]) == [(CONFLICT, 1), (STORED, 3), (CONFLICT, 1)]
    assert rows([store.event("t", "x")])[0].payload == payloads[commit_first]


def test_a_group_prepared_long_before_its_commit_is_decided_by_what_is_stored_by_then(store: Store) -> None:
    early = store.prepare([batch_of(numbered(10)), batch(Sent("alpha", "e-3", B))])
    told(store, batch_of(numbered(5)))
    wait_for(lambda: store.seen([("alpha", "e-4")])[0].seen, "the events are seen")
    for number in range(30):
        told(store, batch_of(numbered(1000, prefix=f"between-{number}")))
    outcome = [receipts(one) for one in store.commit(early, STAMP_US)]
    assert outcome[0][:5] == [(DUPLICATE, offset) for offset in range(1, 6)]
    assert outcome[0][5:] == [(STORED, offset) for offset in range(30_006, 30_011)]
    assert outcome[1] == [(CONFLICT, 4)]
    assert store.totals().unique == 30_010


def test_of_many_prepared_groups_each_key_is_stored_once_whatever_the_order_of_commits(
    store: Store, rng: random.Random
) -> None:
    groups = []
    for number in range(12):
        chosen = [Sent("t", f"id-{rng.randrange(60)}", b'{"group":%d}' % number) for _ in range(30)]
        groups.append((chosen, store.prepare([batch_of(chosen)])))
    rng.shuffle(groups)
    expected: dict[str, tuple[int, bytes]] = {}
    for chosen, group in groups:
        for sent, (status, offset) in zip(chosen, receipts(store.commit(group, STAMP_US)[0]), strict=True):
            known = expected.setdefault(sent.event_id, (offset, sent.payload))
            assert offset == known[0]
            assert (status == CONFLICT) == (sent.payload != known[1])
    assert {row.event_id: (row.offset, row.payload) for row in rows(store.read(EVERYTHING))} == expected


# Conflicts


SAME = [
    (b'{"a":1,"b":[true,null]}', b'{ "b" : [ true , null ] , "a" : 1 }'),
    (b'{"s":"\\u0041\\/"}', b'{"s":"A/"}'),
    (b'{"s":"\\ud83d\\ude00"}', '{"s":"\U0001f600"}'.encode()),
    (b'{"big":123456789012345678901234567890}', b'{"big" :123456789012345678901234567890}'),
    (b'{"o":{"x":{},"y":[]}}', b'{"o":{"y":[],"x":{}}}'),
    (b"{}", b"{\n}"),
]
DIFFERENT = [
    (b'{"n":1}', b'{"n":1.0}'),
    (b'{"n":1e2}', b'{"n":100}'),
    (b'{"n":-0}', b'{"n":0}'),
    (b'{"n":9007199254740993}', b'{"n":9007199254740992}'),
    (b'{"a":[1,2]}', b'{"a":[2,1]}'),
    (b'{"a":null}', b"{}"),
    (b'{"a":1}', b'{"a":true}'),
    (b'{"a":"1"}', b'{"a":1}'),
    (b'{"s":"\\u00e9"}', b'{"s":"e\\u0301"}'),
    (b'{"a":[[1],2]}', b'{"a":[[1,2]]}'),
    (b'{"a":{}}', b'{"a":[]}'),
]


@pytest.mark.parametrize(("first", "again"), [*SAME, *[(b, a) for a, b in SAME]])
def test_a_payload_that_was_serialised_anew_is_a_plain_duplicate(
    open_store: OpenStore, first: bytes, again: bytes
) -> None:
    store = open_store()
    assert told(store, batch(Sent("t", "in-batch", first), Sent("t", "in-batch", again))) == [
        [(STORED, 1), (DUPLICATE, 1)]
    ]
    told(store, batch(Sent("t", "later", first)))
    assert told(store, batch(Sent("t", "later", again))) == [[(DUPLICATE, 2)]]
    store.close()
    store = open_store()
    assert told(store, batch(Sent("t", "later", again))) == [[(DUPLICATE, 2)]]
    assert rows([store.event("t", "later")])[0].payload == first
    assert store.totals().conflicts == 0


@pytest.mark.parametrize(("first", "again"), [*DIFFERENT, *[(b, a) for a, b in DIFFERENT]])
def test_a_payload_that_differs_as_a_json_value_is_a_conflict(
    open_store: OpenStore, first: bytes, again: bytes
) -> None:
    store = open_store()
    assert told(store, batch(Sent("t", "in-batch", first), Sent("t", "in-batch", again))) == [
        [(STORED, 1), (CONFLICT, 1)]
    ]
    told(store, batch(Sent("t", "later", first)))
    assert told(store, batch(Sent("t", "later", again))) == [[(CONFLICT, 2)]]
    store.close()
    store = open_store()
    assert told(store, batch(Sent("t", "later", again))) == [[(CONFLICT, 2)]]
    assert rows([store.event("t", "later")])[0].payload == first
    assert store.totals().conflicts == 3


def test_two_payloads_with_the_same_crc_are_a_conflict(store: Store) -> None:
    """A fingerprint that a sender can compute would let it slip another payload in as a plain duplicate."""
    one, other = b'{"order":"199c86b8","amount":584105}', b'{"order":"29b76784","amount":974705}'
    assert zlib.crc32(one) == zlib.crc32(other)
    first, again = Sent("t", "x", one), Sent("t", "x", other)
    assert told(store, batch(first), batch(again)) == [[(STORED, 1)], [(CONFLICT, 1)]]


def test_what_was_compared_while_preparing_is_not_compared_again_in_the_turn(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(store, batch(*(Sent("t", f"{number}", A) for number in range(50))))
    payloads = [B if number % 2 else b'{ "v":"a"}' for number in range(50)]
    resent = [Sent("t", f"{number}", payload) for number, payload in enumerate(payloads)]
    sent = batch(*resent, Sent("t", "late", A))
    group = store.prepare([sent])
    told(store, batch(Sent("t", "late", A)))

    def fail(wanted: object) -> NoReturn:
        pytest.fail("a commit reads stored payloads")

    monkeypatch.setattr(store._reader, "payloads_at", fail)
    (outcome,) = store.commit(group, STAMP_US)
    statuses = [status for status, _ in receipts(outcome)]
    assert statuses == [*(CONFLICT if payload == B else DUPLICATE for payload in payloads), DUPLICATE]


def test_timestamp_source_and_extra_members_make_no_conflict(store: Store) -> None:
    first = Sent("t", "x", A, source="one", timestamp="2024-01-01", extra=b'"trace":1')
    again = Sent("t", "x", A, source="two", timestamp="2025-01-01", extra=b'"trace":2')
    assert told(store, batch(first), batch(again)) == [[(STORED, 1)], [(DUPLICATE, 1)]]
    (row,) = rows(store.read(EVERYTHING))
    assert (row.source, row.timestamp, row.extra) == ("one", "2024-01-01", b'"trace":1')


def test_conflicts_among_many_are_found_each_at_its_place(open_store: OpenStore, rng: random.Random) -> None:
    store = open_store()
    told(store, batch_of(numbered(5000)))
    store.close()
    store = open_store()
    altered = set(rng.sample(range(5000), 300))
    again = [Sent("alpha", f"e-{i}", b'{"n":-1}' if i in altered else b'{ "n": %d }' % i) for i in range(5000)]
    (outcome,) = store.append([batch_of(again)], STAMP_US)
    assert set(outcome.conflict_positions) == altered
    assert list(outcome.offsets) == list(range(1, 5001))
    assert (store.totals().duplicates, store.totals().conflicts) == (5000, 300)
