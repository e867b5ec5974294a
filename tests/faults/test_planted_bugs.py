"""The suite can fail: each planted bug is caught by a check that holds without it.

The two opposite orders of look-up need one certain interleaving; it is forced by holding the index writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from sekali.errors import SekaliError
from sekali.event import ReadQuery
from sekali.store.seen import Mark
from sekali.store.store import Store
from tests.contract.test_index import (
    check_index_ahead_of_a_restored_backup,
    check_index_of_another_future,
    check_index_of_another_store,
)
from tests.faults.planted import planted
from tests.property import test_store_model
from tests.support.events import STAMP_US, Sent, batch, receipts, rows
from tests.support.stores import WAIT_S_MAX, crashed_copy, store_settings, wait_for

Check = Callable[[Path], None]


class HeldWriter:
    """The store's index writer, stopped before its next write to RocksDB until it is released."""

    def __init__(self, store: Store) -> None:
        self._seen = store._seen
        self._reached = threading.Event()
        self._released = threading.Event()
        self._write = self._seen.write
        self._seen.write = self._held  # type: ignore[method-assign]

    def _held(self, keys: dict[bytes, int], done: Mark, upto: Mark, ordered: list[bytes] | None = None) -> None:
        self._reached.set()
        assert self._released.wait(WAIT_S_MAX)
        self._write(keys, done, upto, ordered)

    def wait_until_reached(self) -> None:
        assert self._reached.wait(WAIT_S_MAX), "the writer has nothing to write"

    def release(self) -> None:
        self._released.set()

    def finish(self) -> None:
        """Releases the writer and waits until every pending key is in RocksDB and no longer pending."""
        self.release()
        wait_for(lambda: self._seen.unwritten_keys == 0, "all pending keys are written")


def check_stored_once(store: Store) -> None:
    found = rows(store.read(ReadQuery()))
    assert len({row.key for row in found}) == len(found), "a key is stored twice"


def check_keys_written_while_a_group_is_looked_up(folder: Path) -> None:
    """Between a group's question to RocksDB and its look at the pending keys, these are written there and dropped."""
    store = Store.open(store_settings(folder / "store.db"))
    writer = HeldWriter(store)
    try:
        store.append([batch(Sent("t", "x"))], STAMP_US)
        writer.wait_until_reached()
        ask = store._seen.ask

        def ask_then_let_the_writer_finish(digests: Collection[bytes]) -> dict[bytes, int]:
            found = ask(digests)
            writer.finish()
            return found

        store._seen.ask = ask_then_let_the_writer_finish  # type: ignore[method-assign]
        store.append([batch(Sent("t", "x"))], STAMP_US)
        check_stored_once(store)
    finally:
        writer.release()
        store.close()


def check_keys_looked_up_while_they_are_written(folder: Path) -> None:
    """A group is looked up while the writer is on its way to RocksDB with the keys."""
    store = Store.open(store_settings(folder / "store.db"))
    writer = HeldWriter(store)
    try:
        store.append([batch(Sent("t", "x"))], STAMP_US)
        writer.wait_until_reached()
        store.append([batch(Sent("t", "x"))], STAMP_US)
        check_stored_once(store)
    finally:
        writer.release()
        store.close()


def check_two_groups_prepared_together(folder: Path) -> None:
    store = Store.open(store_settings(folder / "store.db"))
    try:
        groups = [store.prepare([batch(Sent("t", "x"))]) for _ in range(2)]
        for group in groups:
            store.commit(group, STAMP_US)
        check_stored_once(store)
    finally:
        store.close()


def check_a_resend_after_a_restart(folder: Path) -> None:
    for _ in range(2):
        store = Store.open(store_settings(folder / "store.db"))
        store.append([batch(Sent("t", "x"))], STAMP_US)
        check_stored_once(store)
        store.close()


def check_what_was_answered_for_survives_a_crash(folder: Path) -> None:
    store = Store.open(store_settings(folder / "live" / "store.db"))
    told = receipts(store.append([batch(Sent("t", "x"))], STAMP_US)[0])
    crashed = crashed_copy(store, folder / "live" / "store.db", folder / "crashed")
    store.close()
    store = Store.open(store_settings(crashed))
    found = [(0, row.offset) for row in rows(store.read(ReadQuery()))]
    store.close()
    assert found == told


def opener_in(opened: list[Store], folder: Path) -> Callable[..., Store]:
    def open_one(path: Path | None = None) -> Store:
        opened.append(Store.open(store_settings(path or folder / "s" / "store.db")))
        return opened[-1]

    return open_one


def index_check(check: Callable[..., None]) -> Check:
    def run(folder: Path) -> None:
        opened: list[Store] = []
        (folder / "s").mkdir()
        try:
            check(opener_in(opened, folder), folder / "s" / "store.db", folder)
        finally:
            for store in opened:
                store.close()

    return run


CATCHES: list[Any] = [
    pytest.param(plant, check, id=f"{plant}-{number}")
    for number, (plant, check) in enumerate(
        [
            ("ask_before_capture", check_keys_written_while_a_group_is_looked_up),
            ("drop_before_write", check_keys_looked_up_while_they_are_written),
            ("commit_trusts_prepare", check_two_groups_prepared_together),
            ("dedup_in_memory_only", check_a_resend_after_a_restart),
            ("answer_before_commit", check_what_was_answered_for_survives_a_crash),
            ("index_without_binding", index_check(check_index_ahead_of_a_restored_backup)),
            ("index_without_binding", index_check(check_index_of_another_future)),
            ("index_without_binding", index_check(check_index_of_another_store)),
        ]
    )
]


@pytest.mark.parametrize(("plant", "check"), CATCHES)
def test_the_check_holds_without_the_bug_and_fails_with_it(plant: str, check: Check, tmp_path: Path) -> None:
    (tmp_path / "honest").mkdir()
    (tmp_path / "planted").mkdir()
    check(tmp_path / "honest")
    with planted(plant), pytest.raises(AssertionError):
        check(tmp_path / "planted")


@pytest.mark.slow
@pytest.mark.parametrize(
    "plant", ["commit_trusts_prepare", "dedup_in_memory_only", "answer_before_commit", "index_without_binding"]
)
def test_the_state_machine_finds_the_bug_by_itself(plant: str) -> None:
    with planted(plant), pytest.raises((AssertionError, SekaliError)):
        test_store_model.run(examples=60, steps=40, shrinks=False)
