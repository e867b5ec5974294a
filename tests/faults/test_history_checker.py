"""The history checker itself: a true history passes, and every kind of lie is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.history import Attempt, History, HistoryBroken, Stored, check_history, read_histories


def event(event_id: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"topic": "t", "event_id": event_id, "payload": payload or {}}


def stored(offset: int, event_id: str, payload: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**event(event_id, payload), "offset": offset, "received_at": f"2024-01-01T00:00:0{offset}.000000Z"}


def refused(offset: int, status: str) -> dict[str, Any]:
    received_at = stored(3, "c")["received_at"]
    return {"topic": "t", "offset": offset, "source": "two", "received_at": received_at, "status": status}


def receipts(*given: tuple[str, int]) -> dict[str, Any]:
    return {"accepted": len(given), "receipts": [{"status": status, "offset": offset} for status, offset in given]}


class Run:
    """Two clients, one request of each possible outcome, and what a truthful store holds afterwards."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        one, two = History(folder / "one.history", "one"), History(folder / "two.history", "two")
        first = one.call([event("a"), event("b", {"n": 1})])
        one.answer(first, 200, receipts(("stored", 1), ("stored", 2)))
        again = two.call([event("a"), event("b", {"n": 2}), event("c")])
        two.answer(again, 200, {**receipts(("duplicate", 1), ("conflict", 2), ("stored", 3)), "conflicts": [1]})
        one.call([event("d"), event("e")])  # killed before the answer; stored
        two.answer(two.call([event("f"), event("g")]), 0, None)  # the connection broke; not stored
        one.answer(one.call([event("h")]), 503, {"code": "overloaded"})
        two.answer(two.call([event("i")]), -1, None)
        one.close()
        two.close()
        self.stored = Stored(
            events=[stored(1, "a"), stored(2, "b", {"n": 1}), stored(3, "c"), stored(4, "d"), stored(5, "e")],
            stats={"received": 7, "unique_processed": 5, "duplicate_dropped": 2, "conflicts": 1},
            topics=[{"events": 5, "duplicates": 2, "conflicts": 1}],
            ledger=[refused(1, "duplicate"), refused(2, "conflict")],
        )

    def attempts(self) -> list[Attempt]:
        return read_histories(self.folder.glob("*.history"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def test_a_true_history_passes_and_is_counted(run: Run) -> None:
    counts = check_history(run.attempts(), run.stored)
    assert counts == {"stored": 5, "attempts": 6, "acknowledged": 2, "refused": 2, "unknown": 2}


def test_a_last_line_that_was_torn_is_left_out(run: Run) -> None:
    with (run.folder / "one.history").open("ab") as file:
        file.write(b'{"call": "one#9", "ev')
    assert len(run.attempts()) == 6


def lose_an_acknowledged_event(found: Stored) -> None:
    found.events[2:] = [stored(3, "d"), stored(4, "e")]
    found.stats.update(received=6, unique_processed=4)


def store_an_event_twice(found: Stored) -> None:
    found.events.append(stored(6, "a"))


def store_what_nobody_sent(found: Stored) -> None:
    found.events.append(stored(6, "z"))


def store_another_payload(found: Stored) -> None:
    found.events[3]["payload"] = {"other": True}


def keep_the_second_payload(found: Stored) -> None:
    found.events[1]["payload"] = {"n": 2}


def store_what_was_refused(found: Stored) -> None:
    found.events.append(stored(6, "h"))


def store_what_was_never_sent(found: Stored) -> None:
    found.events.append(stored(6, "i"))


def store_a_request_in_part(found: Stored) -> None:
    found.events.pop()
    found.stats.update(received=6, unique_processed=4)


def skip_an_offset(found: Stored) -> None:
    found.events[4]["offset"] = 6


def swap_two_offsets(found: Stored) -> None:
    found.events[0], found.events[2] = {**found.events[2], "offset": 1}, {**found.events[0], "offset": 3}


def step_back_in_time(found: Stored) -> None:
    found.events[4]["received_at"] = found.events[0]["received_at"]


def miscount(name: str, by: int) -> Callable[[Stored], None]:
    def lie(found: Stored) -> None:
        found.stats[name] += by

    lie.__name__ = f"{name}_{by:+}"
    return lie


def count_what_was_refused(found: Stored) -> None:
    found.stats["received"] += 3
    found.stats["duplicate_dropped"] += 3


def forget_an_acknowledged_duplicate(found: Stored) -> None:
    found.stats.update(received=4, duplicate_dropped=-1)


def miscount_a_topic(found: Stored) -> None:
    assert found.topics is not None
    found.topics[0]["events"] = 4


def forget_a_ledger_entry(found: Stored) -> None:
    assert found.ledger is not None
    found.ledger.pop()


def call_a_conflict_a_duplicate_in_the_ledger(found: Stored) -> None:
    assert found.ledger is not None
    found.ledger[1]["status"] = "duplicate"


def name_an_event_in_the_ledger_that_is_not_there(found: Stored) -> None:
    assert found.ledger is not None
    found.ledger[0]["offset"] = 6


def name_a_later_event_in_the_ledger(found: Stored) -> None:
    assert found.ledger is not None
    found.ledger[0]["offset"] = 5


def list_the_ledger_out_of_order(found: Stored) -> None:
    assert found.ledger is not None
    found.ledger[0]["received_at"] = stored(4, "d")["received_at"]


LIES: list[Callable[[Stored], None]] = [
    lose_an_acknowledged_event,
    store_an_event_twice,
    store_what_nobody_sent,
    store_another_payload,
    keep_the_second_payload,
    store_what_was_refused,
    store_what_was_never_sent,
    store_a_request_in_part,
    skip_an_offset,
    swap_two_offsets,
    step_back_in_time,
    miscount("received", 1),
    miscount("unique_processed", -1),
    miscount("conflicts", -1),
    count_what_was_refused,
    forget_an_acknowledged_duplicate,
    miscount_a_topic,
    forget_a_ledger_entry,
    call_a_conflict_a_duplicate_in_the_ledger,
    name_an_event_in_the_ledger_that_is_not_there,
    name_a_later_event_in_the_ledger,
    list_the_ledger_out_of_order,
]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_a_store_that_lies_is_found_out(run: Run, lie: Callable[[Stored], None]) -> None:
    found = copy.deepcopy(run.stored)
    lie(found)
    with pytest.raises(HistoryBroken):
        check_history(run.attempts(), found)


@pytest.mark.parametrize(
    ("place", "receipt"),
    [
        (0, {"status": "stored", "offset": 1}),
        (0, {"status": "conflict", "offset": 1}),
        (1, {"status": "duplicate", "offset": 2}),
        (2, {"status": "stored", "offset": 4}),
    ],
)
def test_a_receipt_that_lies_is_found_out(run: Run, place: int, receipt: dict[str, Any]) -> None:
    attempts = run.attempts()
    attempts[1].body["receipts"][place] = receipt
    with pytest.raises(HistoryBroken):
        check_history(attempts, run.stored)


def test_conflicts_that_were_not_told_are_found_out(run: Run) -> None:
    attempts = run.attempts()
    del attempts[1].body["conflicts"]
    with pytest.raises(HistoryBroken):
        check_history(attempts, run.stored)


def test_a_payload_first_sent_after_another_was_acknowledged_is_found_out_without_receipts(run: Run) -> None:
    attempts = run.attempts()
    attempts[0].body = {"accepted": 2, "conflicts": [1]}
    attempts[1].body = {"accepted": 3}
    run.stored.events[1]["payload"] = {"n": 2}
    with pytest.raises(HistoryBroken, match="acknowledged before"):
        check_history(attempts, run.stored)
