"""The duplicate ledger: what was refused as known already, what it repeated, and who sent it when."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from sekali.errors import StoreCorrupt
from sekali.event import LedgerEntry, LedgerPlace, LedgerQuery, ReadQuery
from sekali.store import ledger, reader
from sekali.store.ledger import REFUSED_PAYLOAD_BYTES_MAX, REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.support.events import CONFLICT, DUPLICATE, STAMP_US, Sent, batch_of, numbered, random_events, receipts, rows
from tests.support.ledger import ledger_pages, whole_ledger
from tests.support.stores import compact_fully, crashed_copy


def send(store: Store, *sent: Sent, stamp_us: int = STAMP_US) -> list[tuple[int, int]]:
    return receipts(store.append([batch_of(sent)], stamp_us)[0])


def text_of(size: int) -> bytes:
    """A JSON string of `size` bytes."""
    return b'"' + b"x" * (size - 2) + b'"'


def test_a_repeat_within_a_batch_names_the_offset_that_the_first_was_given(store: Store) -> None:
    send(store, Sent("t", "before"))
    send(store, Sent("t", "a"), Sent("u", "b"), Sent("u", "b", source="phone"), Sent("t", "a", b"[1]", "web"))
    assert whole_ledger(store) == [
        LedgerEntry(3, "u", "phone", STAMP_US, False, None),
        LedgerEntry(2, "t", "web", STAMP_US, True, b"[1]"),
    ]


def test_repeats_across_commits_are_listed_in_either_order_and_a_page_may_end_inside_a_commit(store: Store) -> None:
    send(store, Sent("t", "a"), Sent("t", "b"), stamp_us=STAMP_US)
    send(store, Sent("t", "b", source="second"), stamp_us=STAMP_US + 1)
    send(store, Sent("t", "c"), stamp_us=STAMP_US + 2)
    send(store, Sent("t", "a", source="third"), Sent("t", "c", b"0", "third"), stamp_us=STAMP_US + 3)
    second = [LedgerEntry(2, "t", "second", STAMP_US + 1, False, None)]
    third = [LedgerEntry(1, "t", "third", STAMP_US + 3, False, None)]
    third.append(LedgerEntry(3, "t", "third", STAMP_US + 3, True, b"0"))
    assert whole_ledger(store) == second + third
    assert whole_ledger(store, descending=True) == (second + third)[::-1]
    assert ledger_pages(store, limit=2) == [second + third[:1], third[1:]]
    assert ledger_pages(store, limit=2, descending=True) == [third[::-1], second]
    assert whole_ledger(store, start=LedgerPlace(2, 1)) == whole_ledger(store, start=LedgerPlace(3, 0)) == third
    assert whole_ledger(store, start=LedgerPlace(4, 1)) == third[1:]
    assert whole_ledger(store, start=LedgerPlace(4, 0), descending=True) == [*third[:1], *second]
    assert whole_ledger(store, start=LedgerPlace(9, 0), descending=True) == (second + third)[::-1]
    for edge in (LedgerPlace(4, 2), LedgerPlace(4, 99), LedgerPlace(5, 0)):
        assert whole_ledger(store, start=edge) == []


def test_a_refused_payload_is_kept_up_to_its_bound_and_none_of_a_plain_duplicate(store: Store) -> None:
    longest = text_of(REFUSED_PAYLOAD_BYTES_MAX)
    too_long = text_of(REFUSED_PAYLOAD_BYTES_MAX + 1)
    send(store, Sent("t", "a"), Sent("t", "b"), Sent("t", "c", too_long))
    told = send(store, Sent("t", "a", longest), Sent("t", "b", too_long), Sent("t", "c", too_long))
    assert told == [(CONFLICT, 1), (CONFLICT, 2), (DUPLICATE, 3)]
    assert [entry.refused_payload for entry in whole_ledger(store)] == [longest, None, None]
    assert [entry.is_conflict for entry in whole_ledger(store)] == [True, True, False]


def test_a_commit_keeps_refused_payloads_up_to_a_bound_for_all_of_them(store: Store) -> None:
    size = REFUSED_PAYLOAD_BYTES_MAX
    fit = REFUSED_PAYLOADS_PER_COMMIT_BYTES_MAX // size
    ids = [f"e-{number}" for number in range(fit + 2)]
    send(store, *(Sent("t", event_id) for event_id in ids))
    for _ in range(2):  # the bound is each commit's own
        send(store, *(Sent("t", event_id, text_of(size)) for event_id in ids))
    kept = [entry.refused_payload is not None for entry in whole_ledger(store)]
    assert kept == 2 * ([True] * fit + [False] * 2)


def test_the_ledger_is_the_same_after_reopening_and_a_crash_and_agrees_with_the_counters(
    open_store: OpenStore, db_path: Path, rng: random.Random
) -> None:
    store = open_store(small_runs=True)
    for number in range(20):
        send(store, *random_events(rng, 60), stamp_us=STAMP_US + number)
    entries = whole_ledger(store)
    check_counters(store, entries)
    again = open_store(crashed_copy(store, db_path, db_path.parent.parent / "crashed"), small_runs=True)
    assert whole_ledger(again) == entries
    check_counters(again, entries)
    store.close()
    assert whole_ledger(open_store(small_runs=True)) == entries


def check_counters(store: Store, entries: list[LedgerEntry]) -> None:
    assert len(entries) == store.totals().duplicates > 0
    assert sum(entry.is_conflict for entry in entries) == store.totals().conflicts > 0


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
    for query in (LedgerQuery(), LedgerQuery(descending=True), LedgerQuery(source="nobody")):
        with pytest.raises(StoreCorrupt, match=r"ledger of commit 3|lacks entries before commit 4"):
            store.ledger(query)
    if column != "entries":  # with which it is not certain that no row is missing between the two
        assert [entry.source for entry in whole_ledger(store, start=LedgerPlace(2, 0), descending=True)] == ["s-1"]
        assert [entry.source for entry in whole_ledger(store, start=LedgerPlace(4, 0))] == ["s-3"]


@pytest.mark.parametrize("gone", [2, 3, 4])
def test_a_row_that_is_gone_is_noticed_by_every_read_that_comes_by(
    open_store: OpenStore, db_path: Path, gone: int
) -> None:
    store = open_store()
    for number in range(4):
        send(store, Sent("t", "a", source=f"s-{number}"))
    store.close()
    connection = sqlite3.connect(db_path)
    with connection:
        connection.execute("DELETE FROM ledger WHERE commit_no = ?", (gone,))
    connection.close()
    store = open_store()
    start = LedgerPlace(gone, 0)
    for query in (LedgerQuery(), LedgerQuery(descending=True), LedgerQuery(start=start), LedgerQuery(topics=("u",))):
        with pytest.raises(StoreCorrupt, match="The ledger lacks entries"):
            store.ledger(query)


def test_entries_are_chosen_by_topic_source_status_and_time(store: Store, rng: random.Random) -> None:
    for number in range(0, 60, 2):
        send(store, *random_events(rng, 40), stamp_us=STAMP_US + number)
    entries = whole_ledger(store)
    topics = {entry.topic for entry in entries}
    for topic in topics:
        assert whole_ledger(store, topics=(topic,)) == [entry for entry in entries if entry.topic == topic]
    assert whole_ledger(store, topics=tuple(topics)) == entries
    assert whole_ledger(store, topics=("never",)) == []
    assert whole_ledger(store, source="phone") == [entry for entry in entries if entry.source == "phone"]
    for is_conflict in (True, False):
        chosen = [entry for entry in entries if entry.is_conflict == is_conflict]
        assert whole_ledger(store, is_conflict=is_conflict) == chosen
    for since in range(-1, 62, 3):
        for until in range(-1, 62, 7):
            bounds = {"since_us": STAMP_US + since, "until_us": STAMP_US + until}
            chosen = [entry for entry in entries if STAMP_US + since <= entry.received_at_us < STAMP_US + until]
            assert whole_ledger(store, **bounds) == chosen
            assert whole_ledger(store, **bounds, descending=True, limit=7) == chosen[::-1]


@pytest.mark.parametrize("bound", ["WINDOW_ROWS_MAX", "WINDOW_ENTRIES", "WINDOW_BYTES", "PAGE_BYTES_MAX"])
@pytest.mark.parametrize("descending", [False, True])
def test_a_page_ends_early_at_a_bound_and_reading_on_gives_everything_once(
    store: Store, rng: random.Random, monkeypatch: pytest.MonkeyPatch, bound: str, *, descending: bool
) -> None:
    for _ in range(20):
        send(store, *random_events(rng, 40))
    everything = whole_ledger(store, descending=descending)
    monkeypatch.setattr(ledger, bound, {"WINDOW_ROWS_MAX": 3, "PAGE_BYTES_MAX": 1000}.get(bound, 50))
    pages = ledger_pages(store, descending=descending)
    assert len(pages) > 3
    assert [entry for page in pages for entry in page] == everything
    phone = [entry for entry in everything if entry.source == "phone"]
    assert whole_ledger(store, descending=descending, source="phone") == phone
    assert whole_ledger(store, descending=descending, source="nobody") == []


def test_a_page_that_the_limit_ends_says_exactly_whether_there_is_more(store: Store) -> None:
    send(store, *numbered(4), *numbered(4))
    assert store.ledger(LedgerQuery(limit=4)).following is None
    page = store.ledger(LedgerQuery(limit=3))
    assert (len(page.entries), page.following) == (3, LedgerPlace(1, 3))


def test_event_ids_are_those_of_the_events_repeated_wherever_these_lie(
    open_store: OpenStore, rng: random.Random
) -> None:
    store = open_store(small_runs=True)
    for number in range(40):
        send(store, *random_events(rng, 60), stamp_us=STAMP_US + number)
        if number == 30:
            compact_fully(store)
    id_at = {row.offset: row.event_id for row in rows(store.read(ReadQuery()))}
    plain = whole_ledger(store)
    for descending in (False, True):
        expected = [replace(entry, event_id=id_at[entry.offset]) for entry in plain]
        found = whole_ledger(store, descending=descending, with_event_ids=True)
        assert found == (expected[::-1] if descending else expected)


def test_looking_event_ids_up_is_bounded_and_the_page_ends_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        send(store, Sent("t", f"e-{number}"))
    send(store, *(Sent("t", f"e-{number}") for number in range(30)))
    monkeypatch.setattr(reader, "_EVENT_IDS_COST_MAX", 8 * reader._BLOCK_COST)
    before = store.blocks_read
    page = store.ledger(LedgerQuery(with_event_ids=True))
    assert store.blocks_read - before <= 8
    assert 0 < len(page.entries) <= 8
    assert page.following == LedgerPlace(31, len(page.entries))
    found = whole_ledger(store, with_event_ids=True)
    assert [entry.event_id for entry in found] == [f"e-{number}" for number in range(30)]
    assert len(store.ledger(LedgerQuery()).entries) == 30


def test_what_is_not_answered_for_yet_is_not_in_the_ledger(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    send(store, Sent("t", "a"))
    seen_before_the_answer: list[list[LedgerEntry]] = []
    monkeypatch.setattr(store, "_check_file", lambda: seen_before_the_answer.append(whole_ledger(store)))
    send(store, Sent("t", "a"))
    assert seen_before_the_answer == [[], []], "neither before the commit nor between it and the answer"
    assert len(whole_ledger(store)) == 1
