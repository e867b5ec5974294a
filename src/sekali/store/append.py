"""Appending a group: prepared by any thread, committed one at a time.

Preparing digests, asks the seen index, decides, encodes and compresses; nothing of it is final. The commit checks the
decision against what was committed in between, decides again if that changed anything, and writes one transaction. So
a failed write never counts as seen, and the slow parts run beside the commit of the group before.
"""

from __future__ import annotations

import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from operator import or_
from types import MappingProxyType
from typing import Final

from sekali.errors import TooManyTopics
from sekali.event import BatchOutcome, EventBatch
from sekali.store.block import Columns, encode_commit_block, pick
from sekali.store.decide import Decision, Digester, GroupColumns, columns_of, decide, receipts
from sekali.store.layout import Layout
from sekali.store.ledger import ledger_row
from sekali.store.log import Log, Statement, Totals, update_totals
from sekali.store.reader import Reader
from sekali.store.seen import FINGERPRINT_BITS, OFFSET_MAX, Frontier, Mark, SeenIndex
from sekali.store.tail import CommitRow, encode_topics, tail_commit
from sekali.store.topics import TopicBook, TopicCounts, insert_topics

_FEW_TOPICS: Final = 64
"""As many are counted in a column of bytes, topic by topic, in less time than in a dictionary, event by event."""
_CHAIN_HEAD: Final = struct.Struct("<QQQQ")


@dataclass(slots=True)
class PreparedGroup:
    """A group as it will be written, unless the commit finds that it must be decided again."""

    batch_sizes: list[int]
    columns: GroupColumns
    ordered: list[bytes]
    """The digests of all its events, sorted."""
    found: dict[bytes, int]
    frontier: Frontier
    decision: Decision
    new_keys: dict[bytes, int]
    """Digest -> fingerprint of each new event, in order."""
    topic_names: list[str]
    """Those of the block's topic indexes first, then those that only duplicates name."""
    topic_counts: TopicCounts
    block: bytes | None


class Appender:
    """Owns the state that a commit changes. `turn` is held by whoever writes."""

    def __init__(
        self,
        log: Log,
        totals: Totals,
        topics: TopicBook,
        layout: Layout,
        seen: SeenIndex,
        reader: Reader,
        topics_max: int,
    ) -> None:
        self.turn = threading.Lock()
        self.totals = totals
        self._log = log
        self._topics = topics
        self._layout = layout
        self._seen = seen
        self._reader = reader
        self._topics_max = topics_max
        self._local = threading.local()

    def digester(self) -> Digester:
        """This thread's."""
        digester: Digester | None = getattr(self._local, "digester", None)
        if digester is None:
            digester = self._local.digester = Digester(self._log.identity.digest_key)
        return digester

    def prepare(self, batches: Sequence[EventBatch]) -> PreparedGroup:
        """Everything that can be done before the group's turn. At least one event."""
        columns = columns_of(batches)
        digester = self.digester()
        columns.digests = digester.digests(columns.topics, columns.event_ids)
        columns.fingerprints = digester.fingerprints(columns.payloads)
        ordered = sorted(columns.digests)
        found, frontier = self._seen.find(ordered)
        return self._decided([len(batch) for batch in batches], columns, ordered, found, frontier)

    def _decided(
        self,
        batch_sizes: list[int],
        columns: GroupColumns,
        ordered: list[bytes],
        found: dict[bytes, int],
        frontier: Frontier,
        verdicts: Mapping[int, bool] = MappingProxyType({}),
    ) -> PreparedGroup:
        decision = decide(columns, found, self._stored_payloads, verdicts)
        places = decision.new_places
        if places is None:
            new = Columns((), columns.event_ids, columns.timestamps, columns.sources, columns.payloads, columns.extras)
            new_topics: Sequence[str] = columns.topics
            new_keys = dict(zip(columns.digests, columns.fingerprints, strict=True))
        else:
            new = Columns(
                (),
                pick(columns.event_ids, places),
                pick(columns.timestamps, places),
                pick(columns.sources, places),
                pick(columns.payloads, places),
                None if columns.extras is None else pick(columns.extras, places),
            )
            new_topics = pick(columns.topics, places)
            new_keys = dict(zip(pick(columns.digests, places), pick(columns.fingerprints, places), strict=True))
        if new.extras is not None and not any(new.extras):
            new.extras = None
        named = dict.fromkeys(new_topics)
        named.update(dict.fromkeys(columns.topics[each.place] for each in decision.duplicates))
        names = list(named)
        if len(names) == 1:
            new.topics = [0] * len(new)
        else:
            index_of = {name: index for index, name in enumerate(names)}
            new.topics = list(map(index_of.__getitem__, new_topics))
        return PreparedGroup(
            batch_sizes=batch_sizes,
            columns=columns,
            ordered=ordered,
            found=found,
            frontier=frontier,
            decision=decision,
            new_keys=new_keys,
            topic_names=names,
            topic_counts=_topic_counts(names, new.topics, columns, decision),
            block=encode_commit_block(new) if len(new) else None,
        )

    def _stored_payloads(self, wanted: Sequence[tuple[str, int]]) -> Iterator[tuple[int, bytes]]:
        return self._reader.payloads_at([(self._topics.ids[topic], offset) for topic, offset in wanted])

    def commit(self, group: PreparedGroup, stamp_us: int, before_answer: Callable[[], None]) -> list[BatchOutcome]:
        """Writes the group; its receipts, one outcome per batch. The caller holds the turn.

        `before_answer` is called once the transaction is durable, and may raise. Raises TooManyTopics, DiskFull (in
        both cases nothing was stored) and OutcomeUnknown.
        """
        late = self._seen.walk(group.frontier, group.new_keys)
        if late:
            found = {**group.found, **late}
            compared = {each.place: each.is_conflict for each in group.decision.duplicates if each.new_place is None}
            group = self._decided(group.batch_sizes, group.columns, group.ordered, found, group.frontier, compared)
        before = self.totals
        new_names = self._new_names(group)
        ids = self._topic_ids(group.topic_names, new_names)
        row = self._commit_row(group, ids, new_names, max(before.store_time_us, stamp_us))
        conflicts = sum(each.is_conflict for each in group.decision.duplicates)
        totals = Totals(
            commit_no=row.commit_no,
            chain=row.chain,
            last_offset=before.last_offset + row.events,
            store_time_us=row.stamp_us,
            duplicates=before.duplicates + len(group.decision.duplicates),
            conflicts=before.conflicts + conflicts,
            events=before.events + row.events,
        )
        assert totals.last_offset <= OFFSET_MAX, "the offset no longer fits the seen index"
        self._log.write(self._statements(group, row, totals, new_names))
        before_answer()
        self._publish(group, row, ids, totals, new_names)
        return _outcomes(group, row.first_offset)

    def _new_names(self, group: PreparedGroup) -> list[str]:
        new_names = [name for name in group.topic_names if name not in self._topics.ids]
        if new_names and len(self._topics) + len(new_names) > self._topics_max:
            raise TooManyTopics(
                f"The store holds {len(self._topics)} topics and may hold {self._topics_max}; nothing was stored. "
                "Raise SEKALI_TOPICS_MAX, or publish under fewer names."
            )
        return new_names

    def _topic_ids(self, names: Sequence[str], new_names: Sequence[str]) -> list[int]:
        known = self._topics.ids
        if not new_names:
            return [known[name] for name in names]
        new = {name: topic_id for topic_id, name in enumerate(new_names, len(self._topics) + 1)}
        return [new.get(name) or known[name] for name in names]

    def _commit_row(
        self, group: PreparedGroup, ids: Sequence[int], new_names: Sequence[str], stamp_us: int
    ) -> CommitRow:
        topics = encode_topics(ids, group.topic_counts)
        first_offset = self.totals.last_offset + 1
        commit_no = self.totals.commit_no + 1
        events = len(group.new_keys)
        chain = blake2b(self.totals.chain, digest_size=16)
        chain.update(_CHAIN_HEAD.pack(commit_no, first_offset, events, stamp_us))
        chain.update(topics)
        chain.update("\n".join(new_names).encode())
        chain.update(group.block or b"")
        return CommitRow(commit_no, first_offset, events, stamp_us, chain.digest(), topics, group.block)

    def _statements(
        self, group: PreparedGroup, row: CommitRow, totals: Totals, new_names: list[str]
    ) -> list[Statement]:
        statements = [row.insertion(), update_totals(totals)]
        if new_names:
            statements += insert_topics(new_names, len(self._topics) + 1)
        duplicates = group.decision.duplicates
        if duplicates:
            before = self.totals.duplicates
            statements.append(
                ledger_row(row.commit_no, row.stamp_us, group.columns, duplicates, row.first_offset, before)
            )
        return statements

    def _publish(
        self, group: PreparedGroup, row: CommitRow, ids: Sequence[int], totals: Totals, new_names: Sequence[str]
    ) -> None:
        """Makes the commit visible, in the order in which readers look: names, tail, figures, totals, keys."""
        for topic_id, name in enumerate(new_names, len(self._topics) + 1):
            self._topics.add(name, topic_id)
        self._layout.append(tail_commit(row, ids, group.topic_counts))
        self._topics.apply(ids, group.topic_counts, row.first_offset, row.stamp_us)
        self.totals = totals
        new_keys = group.new_keys
        # As `pack_value`, which called for each event would take as long as all the rest.
        shifted = range(
            row.first_offset << FINGERPRINT_BITS, totals.last_offset + 1 << FINGERPRINT_BITS, 1 << FINGERPRINT_BITS
        )
        values = list(map(or_, shifted, new_keys.values()))
        ordered = group.ordered if len(new_keys) == len(group.ordered) else sorted(new_keys)
        self._seen.add(new_keys, values, ordered, Mark(row.commit_no, row.chain, totals.last_offset))


def _topic_counts(
    names: Sequence[str], indexes: Sequence[int], columns: GroupColumns, decision: Decision
) -> TopicCounts:
    """For each of the names, in order. `indexes`: for each new event which of them it has."""
    every = range(len(names))
    if len(names) <= _FEW_TOPICS:
        column = bytes(indexes)
        events = [column.count(index) for index in every]
        first_places = [max(0, column.find(index)) for index in every]
        last_places = [max(0, column.rfind(index)) for index in every]
    else:
        count = len(indexes)
        none = dict.fromkeys(every, 0)
        events_of = Counter(indexes)
        events = [events_of[index] for index in every]
        first_places = [*(none | dict(zip(reversed(indexes), range(count - 1, -1, -1), strict=True))).values()]
        last_places = [*(none | dict(zip(indexes, range(count), strict=True))).values()]
    duplicates = Counter(columns.topics[each.place] for each in decision.duplicates)
    conflicts = Counter(columns.topics[each.place] for each in decision.duplicates if each.is_conflict)
    return TopicCounts(
        events, [duplicates[name] for name in names], [conflicts[name] for name in names], first_places, last_places
    )


def _outcomes(group: PreparedGroup, first_offset: int) -> list[BatchOutcome]:
    offsets, statuses = receipts(len(group.columns), group.decision, first_offset)
    outcomes = []
    start = 0
    for size in group.batch_sizes:
        part = None if statuses is None else statuses[start : start + size]
        if part is not None and not any(part):
            part = None
        outcomes.append(BatchOutcome(offsets[start : start + size], part))
        start += size
    return outcomes
