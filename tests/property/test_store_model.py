"""A Hypothesis state machine: whatever is published, crashed, restored, compacted or lost, the store is its model.

The sizes are small, so that runs are made every few commits and the index is written all the time.
"""

from __future__ import annotations

import copy
import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sekali.errors import EventNotFound
from sekali.event import EventBatch, ReadQuery
from sekali.store.compaction import RunSizes
from sekali.store.store import Store
from tests.support.events import STAMP_US, Sent, batch_of, receipts, rows
from tests.support.ledger import whole_ledger
from tests.support.model import StoreModel, check_figures, check_totals
from tests.support.stores import copy_database, crashed_copy, index_folder, store_settings, wait_index_ready

SIZES = RunSizes(run_events=24, run_commits_max=5, block_events=4)

topics = st.sampled_from(["a", "b", "topic/é", 'q"uote', "rare"])
event_ids = st.one_of(st.integers(0, 30).map("id-{}".format), st.sampled_from(["1", "01", "\U0001f600", 'x"\\']))
payloads = st.sampled_from(
    [
        b"{}",
        b'{"a":1}',
        b'{"a":1.0}',
        b'{ "a" : 1 }',
        b'{"a":1,"b":[2]}',
        b'{"b":[2],"a":1}',
        b'{"t":"\\u0041"}',
        b'{"t":"A"}',
    ]
)
sent_events = st.builds(
    Sent,
    topic=topics,
    event_id=event_ids,
    payload=payloads,
    source=st.sampled_from(["s", "t\\", "u"]),
    timestamp=st.sampled_from(["2024-01-01T00:00:00Z", "2024-02-30"]),
    extra=st.sampled_from([b"", b"", b"", b'"x":[1]']),
)
batches = st.lists(sent_events, min_size=1, max_size=12).map(batch_of)
groups = st.lists(batches, min_size=1, max_size=4)
stamps = st.one_of(st.integers(0, 40).map(lambda second: STAMP_US + second * 1_000_000), st.sampled_from([0, 1 << 51]))
edges = st.one_of(st.integers(0, 120), st.just(1 << 40))
queries = st.builds(
    ReadQuery,
    topics=st.lists(st.one_of(topics, st.just("never")), max_size=2, unique=True).map(tuple),
    source=st.sampled_from([None, None, "s", "t\\", "never"]),
    after=st.one_of(st.just(0), edges),
    before=st.one_of(st.none(), edges.map(lambda offset: offset + 1)),
    since_us=st.one_of(st.none(), stamps),
    until_us=st.one_of(st.none(), stamps),
    descending=st.booleans(),
    limit=st.one_of(st.none(), st.integers(1, 20)),
)


class StoreMachine(RuleBasedStateMachine):
    """One store and its model. Every rule ends with the store open and ready."""

    folder: Path
    path: Path
    store: Store
    model: StoreModel

    @initialize()
    def open_first(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sekali-model-"))
        self.places = itertools.count()
        self.path = self.folder / f"place-{next(self.places)}" / "store.db"
        self.model = StoreModel()
        self.backup: tuple[Path, StoreModel] | None = None
        self._open()

    def _open(self) -> None:
        self.store = wait_index_ready(Store.open(store_settings(self.path), SIZES))

    def _commit(self, group: Any, sent: list[EventBatch], stamp_us: int) -> None:
        told = [receipts(outcome) for outcome in self.store.commit(group, stamp_us)]
        assert told == self.model.append(sent, stamp_us)

    @rule(sent=groups, stamp_us=stamps)
    def publish(self, sent: list[EventBatch], stamp_us: int) -> None:
        self._commit(self.store.prepare(sent), sent, stamp_us)

    @rule(sent=st.lists(groups, min_size=2, max_size=4), order=st.randoms(use_true_random=False), stamp_us=stamps)
    def publish_groups_prepared_together(self, sent: list[list[EventBatch]], order: Any, stamp_us: int) -> None:
        prepared = [(self.store.prepare(group), group) for group in sent]
        order.shuffle(prepared)
        for group, own in prepared:
            self._commit(group, own, stamp_us)

    @rule(query=queries)
    def read(self, query: ReadQuery) -> None:
        assert rows(self.store.read(query)) == self.model.read(query)

    @rule(keys=st.lists(st.tuples(topics, event_ids), max_size=10))
    def look_up(self, keys: list[tuple[str, str]]) -> None:
        known = [self.model.by_key.get(key) for key in keys]
        answers = [(answer.seen, answer.offset) for answer in self.store.seen(keys)]
        assert answers == [(row is not None, row.offset if row else 0) for row in known]
        for key, row in zip(keys, known, strict=True):
            if row is not None:
                assert rows([self.store.event(*key)]) == [row]
            else:
                with pytest.raises(EventNotFound):
                    self.store.event(*key)

    @rule()
    def compact(self) -> None:
        self.store.compact()

    @rule()
    def restart(self) -> None:
        self.store.close()
        self._open()

    @rule()
    def crash(self) -> None:
        target = self.folder / f"place-{next(self.places)}"
        copied = crashed_copy(self.store, self.path, target)
        self.store.close()
        shutil.rmtree(self.path.parent)
        self.path = copied
        self._open()

    @rule(kind=st.sampled_from(["lost", "torn"]))
    def lose_the_index(self, kind: str) -> None:
        self.store.close()
        index = index_folder(self.path)
        if kind == "lost":
            shutil.rmtree(index)
        else:
            for path in index.glob("*.sst"):
                path.write_bytes(path.read_bytes()[:-7])
        self._open()

    @rule()
    def back_up(self) -> None:
        self.store.close()
        target = self.folder / f"place-{next(self.places)}"
        self.backup = copy_database(self.path, target), copy.deepcopy(self.model)
        self._open()

    @precondition(lambda self: getattr(self, "backup", None) is not None)
    @rule()
    def restore_the_backup_beside_the_newer_index(self) -> None:
        assert self.backup is not None
        self.store.close()
        path, model = self.backup
        shutil.copyfile(path, self.path)
        self.model = copy.deepcopy(model)
        self._open()

    @invariant()
    def everything_is_there(self) -> None:
        if hasattr(self, "store"):
            check_totals(self.store.totals(), self.model)
            check_figures(self.store.topic_figures(), self.model)
            assert self.store.failed is None
            assert rows(self.store.read(ReadQuery())) == self.model.log
            assert whole_ledger(self.store) == self.model.ledger

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


def run(examples: int, steps: int, *, shrinks: bool = True) -> None:
    """Raises what the first failing example raised; `shrinks` looks for a smaller one, which takes minutes."""
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=[phase for phase in Phase if shrinks or phase is not Phase.shrink],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
        ),
    )


def test_the_store_is_its_model() -> None:
    run(examples=25, steps=30)


@pytest.mark.slow
def test_the_store_is_its_model_for_a_long_time() -> None:
    run(examples=120, steps=50)
