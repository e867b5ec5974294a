"""Compaction, cut after any of its steps by a crash or a full disk: nothing is lost, doubled, or left behind."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sekali.errors import DiskFull, Draining, OutcomeUnknown
from sekali.event import ReadQuery
from sekali.store.compaction import RunSizes
from sekali.store.log import Statement
from sekali.store.store import Store
from tests.support.events import STAMP_US, Sent, batch_of, receipts, rows
from tests.support.model import StoreModel, check_figures, check_totals
from tests.support.stores import compact_fully, crashed_copy, store_settings, wait_for

SIZES = RunSizes(run_events=120, run_commits_max=50, block_events=10)
STEPS_MAX = 60


class Filled:
    """A store whose tail is due for compaction, which happens only when it is asked for, and its model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = StoreModel()
        self.store = Store.open(store_settings(path), SIZES)
        self.store._maintenance.notice = lambda: None  # type: ignore[method-assign]
        for number in range(12):
            sent = [Sent(f"t{i % 7}", f"e-{number * 25 + i - 3}", b'{"n":%d}' % i) for i in range(25)]
            self.store.append([batch_of(sent)], STAMP_US + number)
            self.model.append([batch_of(sent)], STAMP_US + number)
        wait_for(lambda: self.store._seen.unwritten_keys == 0, "the index has every key")

    def on_write(self, before: Callable[[int], None], after: Callable[[int], None]) -> None:
        """Calls these with the number of each transaction that is written from now on."""
        numbers = itertools.count(1)
        write = self.store._log.write

        def counted(statements: Iterable[Statement], *, durable: bool = True) -> None:
            number = next(numbers)
            before(number)
            write(statements, durable=durable)
            after(number)

        self.store._log.write = counted  # type: ignore[method-assign]


def check_is_model(store: Store, model: StoreModel) -> None:
    check_totals(store.totals(), model)
    check_figures(store.topic_figures(), model)
    for topics in ((), ("t3",), ("t0", "t5")):
        for descending in (False, True):
            query = ReadQuery(topics=topics, descending=descending)
            assert rows(store.read(query)) == model.read(query)
    again = batch_of([Sent(row.topic, row.event_id, row.payload) for row in model.log])
    assert [receipts(outcome) for outcome in store.append([again], STAMP_US)] == model.append([again], STAMP_US)
    with store._log.snapshot() as connection:
        dangling = connection.execute(
            """SELECT (SELECT count(*) FROM blocks WHERE run_no NOT IN (SELECT run_no FROM runs)),
                      (SELECT count(*) FROM topic_blocks WHERE block_no NOT IN (SELECT block_no FROM blocks)),
                      (SELECT count(*) FROM commits WHERE commit_no <= (SELECT max(last_commit) FROM runs))"""
        ).fetchall()
    assert dangling == [(0, 0, 0)]


def steps_of_a_compaction(folder: Path) -> int:
    """Transactions that one run takes."""
    filled = Filled(folder / "counted" / "store.db")
    written: list[int] = []
    filled.on_write(lambda number: None, written.append)
    assert filled.store.compact()
    filled.store.close()
    assert 3 < len(written) < STEPS_MAX
    return len(written)


def test_a_crash_after_any_step_changes_nothing(tmp_path: Path) -> None:
    steps = steps_of_a_compaction(tmp_path)
    filled = Filled(tmp_path / "live" / "store.db")
    copies: list[Path] = []
    turn_is_free = filled.store._appender.turn

    def copy_after(number: int) -> None:
        # The step is written under the turn, which the copy takes for itself.
        turn_is_free.release()
        try:
            copies.append(crashed_copy(filled.store, filled.path, tmp_path / f"crash-{number}"))
        finally:
            turn_is_free.acquire()

    filled.on_write(lambda number: None, copy_after)
    assert filled.store.compact()
    assert len(copies) == steps
    filled.store.close()
    for copied in copies:
        store = Store.open(store_settings(copied), SIZES)
        compact_fully(store)
        check_is_model(store, copy.deepcopy(filled.model))
        store.close()


def test_a_full_disk_at_any_step_is_only_a_delay(tmp_path: Path) -> None:
    for full_at in range(1, steps_of_a_compaction(tmp_path) + 1):
        filled = Filled(tmp_path / f"full-{full_at}" / "store.db")

        def refuse(number: int, full_at: int = full_at) -> None:
            if number == full_at:
                raise DiskFull("The disk is full.")

        filled.on_write(refuse, lambda number: None)
        with pytest.raises(DiskFull):
            filled.store.compact()
        assert rows(filled.store.read(ReadQuery())) == filled.model.log
        compact_fully(filled.store)
        assert filled.store.failed is None
        filled.store.close()
        store = Store.open(store_settings(filled.path), SIZES)
        check_is_model(store, filled.model)
        store.close()


# A store that has stopped


def files_of(filled: Filled) -> dict[str, bytes]:
    paths = (filled.path, filled.store._log.wal_path)
    return {path.name: path.read_bytes() for path in paths}


def test_neither_compaction_nor_a_checkpoint_writes_once_a_commit_has_failed(tmp_path: Path) -> None:
    """After a failed sync it is not known what the file holds: nothing may be built upon it."""
    filled = Filled(tmp_path / "store.db")
    store, write = filled.store, filled.store._log.write

    def fail(statements: Iterable[Statement], *, durable: bool = True) -> None:
        raise OutcomeUnknown("The sync failed.")

    store._log.write = fail  # type: ignore[method-assign]
    with pytest.raises(OutcomeUnknown):
        store.append([batch_of([Sent("t", "lost")])], STAMP_US)
    store._log.write = write  # type: ignore[method-assign]
    store._log._checkpoint_at_pages = 1
    before = files_of(filled)
    for work in (store.compact, store._maintenance.checkpoint_when_large):
        with pytest.raises(Draining):
            work()
        assert files_of(filled) == before
    store.close()


def test_a_compaction_goes_no_step_further_once_a_commit_has_failed(tmp_path: Path) -> None:
    for failed_after in range(1, steps_of_a_compaction(tmp_path)):
        filled = Filled(tmp_path / f"failed-{failed_after}" / "store.db")
        written: list[int] = []

        def fail_or_note(number: int, failed_after: int = failed_after, filled: Filled = filled) -> None:
            if number == failed_after:
                filled.store._fail(OutcomeUnknown("The sync of a commit failed."))

        filled.on_write(written.append, fail_or_note)
        with pytest.raises(Draining):
            filled.store.compact()
        assert written == list(range(1, failed_after + 1))
        filled.store.close()
        store = Store.open(store_settings(filled.path), SIZES)
        compact_fully(store)
        check_is_model(store, filled.model)
        store.close()


def test_a_checkpoint_goes_no_step_further_once_a_commit_has_failed(tmp_path: Path) -> None:
    filled = Filled(tmp_path / "store.db")
    log = filled.store._log
    checkpoint = log.checkpoint
    done: list[bool] = []

    def fail_after_the_first(*, in_turn: bool) -> None:
        checkpoint(in_turn=in_turn)
        done.append(in_turn)
        filled.store._fail(OutcomeUnknown("The sync of a commit failed."))

    log.checkpoint = fail_after_the_first  # type: ignore[method-assign]
    log._checkpoint_at_pages = 1
    with pytest.raises(Draining):
        filled.store._maintenance.checkpoint_when_large()
    assert done == [False]
    filled.store.close()
