"""The duplicate ledger: what was refused as known already, what it repeated, and who sent it when."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from sekali.errors import StoreCorrupt
from sekali.store.ledger import REFUSED_PAYLOAD_BYTES_MAX, REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX, LedgerEntry
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import CONFLICT, DUPLICATE, STAMP_US, Sent, batch_of, random_events, receipts


def send(store: Store, *sent: Sent, stamp_us: int = STAMP_US) -> list[tuple[int, int]]:
    return receipts(store.append([batch_of(sent)], stamp_us)[0])


def text_of(size: int) -> bytes:
    """A JSON string of `size` bytes."""
    return b'"' + b"x" * (size - 2) + b'"'


def test_a_repeat_within_a_batch_names_the_offset_that_the_first_was_given(store: Store) -> None:
    send(store, Sent("t", "before"))
    send(store, Sent("t", "a"), Sent("u", "b"), Sent("u", "b", source="phone"), Sent("t", "a", b"[1]", "web"))
    assert store.ledger() == [
        LedgerEntry(3, "u", "phone", STAMP_US, False, None),
        LedgerEntry(2, "t", "web", STAMP_US, True, b"[1]"),
    ]


def test_repeats_across_commits_are_listed_oldest_first_and_paged_by_commit(store: Store) -> None:
    send(store, Sent("t", "a"), Sent("t", "b"), stamp_us=STAMP_US)
    send(store, Sent("t", "b", source="second"), stamp_us=STAMP_US + 1)
    send(store, Sent("t", "c"), stamp_us=STAMP_US + 2)
    send(store, Sent("t", "a", source="third"), Sent("t", "c", b"0", "third"), stamp_us=STAMP_US + 3)
    second = [LedgerEntry(2, "t", "second", STAMP_US + 1, False, None)]
    third = [LedgerEntry(1, "t", "third", STAMP_US + 3, False, None)]
    third.append(LedgerEntry(3, "t", "third", STAMP_US + 3, True, b"0"))
    assert store.ledger() == second + third
    assert store.ledger(commits_max=1) == second
    assert store.ledger(after_commit=2) == store.ledger(after_commit=3) == third
    assert store.ledger(after_commit=4) == []


def test_a_refused_payload_is_kept_up_to_its_bound_and_none_of_a_plain_duplicate(store: Store) -> None:
    longest = text_of(REFUSED_PAYLOAD_BYTES_MAX)
    too_long = text_of(REFUSED_PAYLOAD_BYTES_MAX + 1)
    send(store, Sent("t", "a"), Sent("t", "b"), Sent("t", "c", too_long))
    told = send(store, Sent("t", "a", longest), Sent("t", "b", too_long), Sent("t", "c", too_long))
    assert told == [(CONFLICT, 1), (CONFLICT, 2), (DUPLICATE, 3)]
    assert [entry.refused_payload for entry in store.ledger()] == [longest, None, None]
    assert [entry.is_conflict for entry in store.ledger()] == [True, True, False]


def test_a_commit_keeps_refused_payloads_up_to_a_bound_for_all_of_them(store: Store) -> None:
    size = REFUSED_PAYLOAD_BYTES_MAX
    fit = REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX // size
    ids = [f"e-{number}" for number in range(fit + 2)]
    send(store, *(Sent("t", event_id) for event_id in ids))
    for _ in range(2):  # the bound is each commit's own
        send(store, *(Sent("t", event_id, text_of(size)) for event_id in ids))
    kept = [entry.refused_payload is not None for entry in store.ledger()]
    assert kept == 2 * ([True] * fit + [False] * 2)


def test_the_ledger_is_the_same_after_reopening_and_agrees_with_the_counters(
    open_store: OpenStore, rng: random.Random
) -> None:
    store = open_store(small_runs=True)
    for number in range(20):
        send(store, *random_events(rng, 60), stamp_us=STAMP_US + number)
    entries = store.ledger()
    assert len(entries) == store.totals().duplicates > 0
    assert sum(entry.is_conflict for entry in entries) == store.totals().conflicts > 0
    store.close()
    assert open_store(small_runs=True).ledger() == entries


@pytest.mark.parametrize("column", ["stamp_us", "entries", "body"])
def test_a_damaged_row_is_not_given_out_and_the_others_are(open_store: OpenStore, db_path: Path, column: str) -> None:
    store = open_store()
    for number in range(4):
        send(store, Sent("t", "a", source=f"s-{number}"))
    store.close()
    connection = sqlite3.connect(db_path)
    with connection:
        if column == "body":
            (body,) = connection.execute("SELECT body FROM ledger WHERE commit_no = 3").fetchone()
            connection.execute("UPDATE ledger SET body = ? WHERE commit_no = 3", (body[:-1] + b"\0",))
        else:
            connection.execute(f"UPDATE ledger SET {column} = {column} + 1 WHERE commit_no = 3")
    connection.close()
    store = open_store()
    with pytest.raises(StoreCorrupt, match="ledger of commit 3"):
        store.ledger()
    assert [entry.source for entry in store.ledger(commits_max=1)] == ["s-1"]
    assert [entry.source for entry in store.ledger(after_commit=3)] == ["s-3"]
