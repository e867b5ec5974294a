"""Bugs to plant on purpose: every harness has to catch them, or it proves nothing.

Only tests reach this module. `PLANTS` are switched on in the test's own process by monkeypatch; a server that runs with
one is started as `tests.faults.planted:app`, which reads the plant's name from SEKALI_TEST_PLANT.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sekali.store import append as append_module
from sekali.store import catchup
from sekali.store import log as log_module
from sekali.store.log import Log, Statement
from sekali.store.seen import Frontier, SeenIndex

Plant = Callable[[pytest.MonkeyPatch], None]


def ask_before_capture(patch: pytest.MonkeyPatch) -> None:
    """RocksDB is asked before the pending keys are captured: those written and dropped in between are missed."""

    def find(self: SeenIndex, digests: Collection[bytes]) -> tuple[dict[bytes, int], Frontier]:
        found = self.ask(digests)
        captured = self.capture()
        found.update(self.walk(captured, digests))
        return found, captured

    patch.setattr(SeenIndex, "find", find)


def drop_before_write(patch: pytest.MonkeyPatch) -> None:
    """Pending keys go before their write to RocksDB has returned: for a moment nobody knows them."""

    def write_generations(self: SeenIndex) -> None:
        while (generation := self._next_generation()) is not None:
            with self._changed:
                assert generation.next is not None
                self._oldest = generation.next
                self._unwritten_keys -= len(generation.keys)
            self.write(generation.keys, generation.mark, generation.mark)

    patch.setattr(SeenIndex, "_write_generations", write_generations)


def commit_trusts_prepare(patch: pytest.MonkeyPatch) -> None:
    """The commit does not look again at what was committed since the group was prepared."""
    commit = append_module.Appender.commit
    walk = SeenIndex.walk
    inside = threading.local()

    def commit_blindly(self: append_module.Appender, *arguments: Any) -> Any:
        inside.commit = True
        try:
            return commit(self, *arguments)
        finally:
            inside.commit = False

    def walk_unless_in_commit(self: SeenIndex, frontier: Frontier, digests: Collection[bytes]) -> dict[bytes, int]:
        return {} if getattr(inside, "commit", False) else walk(self, frontier, digests)

    patch.setattr(append_module.Appender, "commit", commit_blindly)
    patch.setattr(SeenIndex, "walk", walk_unless_in_commit)


def index_without_binding(patch: pytest.MonkeyPatch) -> None:
    """Whatever index lies beside the store is believed."""
    patch.setattr(catchup, "_is_of", lambda log, seen, binding: True)


def dedup_in_memory_only(patch: pytest.MonkeyPatch) -> None:
    """What is in the index on disk is not asked for: keys are known only until they were written there."""
    patch.setattr(SeenIndex, "ask", lambda self, digests: {})


def answer_before_commit(patch: pytest.MonkeyPatch) -> None:
    """A transaction is written when the next one comes: the last one answered for is not on disk."""
    write = Log.write
    waiting: dict[int, list[Statement]] = {}

    def write_later(self: Log, statements: Iterable[Statement], *, durable: bool = True) -> None:
        due = waiting.pop(id(self), None)
        waiting[id(self)] = [(sql, list(rows)) for sql, rows in statements]
        if due is not None:
            write(self, due)

    patch.setattr(Log, "write", write_later)


def unsynced_commits(patch: pytest.MonkeyPatch) -> None:
    """Commits are written as maintenance is: durable with some later one."""
    tuned = log_module._tuned
    patch.setattr(log_module, "_tuned", lambda connection, synchronous="normal": tuned(connection, synchronous))


PLANTS: dict[str, Plant] = {
    plant.__name__: plant
    for plant in (
        ask_before_capture,
        drop_before_write,
        commit_trusts_prepare,
        index_without_binding,
        dedup_in_memory_only,
        answer_before_commit,
        unsynced_commits,
    )
}


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Within the `with` block the bug is there."""
    with pytest.MonkeyPatch.context() as patch:
        PLANTS[name](patch)
        yield


def __getattr__(name: str) -> Any:
    """`app`, made on first use, so that importing this module plants nothing."""
    if name != "app":
        raise AttributeError(name)
    plant = os.environ.get("SEKALI_TEST_PLANT")
    if plant:
        PLANTS[plant](pytest.MonkeyPatch())
    from src.main import app

    return app
