"""The intake, over a small store in memory whose commits can be held up and made to fail."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sekali.errors import DiskFull, Draining, OutcomeUnknown, Overloaded, SekaliError, TooManyTopics
from sekali.event import BatchOutcome, EventBatch, ReceiptStatus
from sekali.intake import LONG_REQUEST_BYTES_MIN, LONG_REQUEST_EVENTS_MIN, OVERLAP_EVENTS_MIN, Intake, Published
from sekali.settings import Settings

WAIT_S_MAX = 20.0


class MemoryStore:
    """Keeps each key once, commits one group at a time. `held` groups wait until `release`."""

    def __init__(self) -> None:
        self.offsets: dict[tuple[str, str], int] = {}
        self.groups: list[list[EventBatch]] = []
        """Committed, in order."""
        self.stamps: list[int] = []
        self.fail: Callable[[Sequence[EventBatch]], BaseException | None] = lambda _: None
        self.hold_prepare: Callable[[Sequence[EventBatch]], bool] = lambda _: False
        self.preparing: list[list[EventBatch]] = []
        self._gate = threading.Condition()
        self._commit = threading.Lock()

    def prepare(self, batches: Sequence[EventBatch]) -> list[EventBatch]:
        with self._gate:
            self.preparing.append(list(batches))
            self._gate.notify_all()
            assert self._gate.wait_for(lambda: not self.hold_prepare(batches), WAIT_S_MAX)
        return list(batches)

    def commit(self, group: list[EventBatch], stamp_us: int) -> list[BatchOutcome]:
        with self._commit:
            error = self.fail(group)
            if error is not None:
                raise error
            self.groups.append(group)
            self.stamps.append(stamp_us)
            return [self._stored(batch) for batch in group]

    def _stored(self, batch: EventBatch) -> BatchOutcome:
        offsets, statuses = [], []
        for key in zip(batch.topics, batch.event_ids, strict=True):
            statuses.append(ReceiptStatus.DUPLICATE if key in self.offsets else ReceiptStatus.STORED)
            offsets.append(self.offsets.setdefault(key, len(self.offsets) + 1))
        return BatchOutcome(offsets, statuses)

    def wait_preparing(self, count: int) -> None:
        with self._gate:
            assert self._gate.wait_for(lambda: len(self.preparing) >= count, WAIT_S_MAX)

    def hold(self, which: Callable[[Sequence[EventBatch]], bool]) -> None:
        with self._gate:
            self.hold_prepare = which

    def release(self) -> None:
        with self._gate:
            self.hold_prepare = lambda _: False
            self._gate.notify_all()


def batch(*event_ids: str, topic: str = "t", body_bytes: int | None = None) -> EventBatch:
    n = len(event_ids)
    return EventBatch(
        [topic] * n,
        list(event_ids),
        ["2024-01-01T00:00:00Z"] * n,
        ["s"] * n,
        [b"{}"] * n,
        None,
        body_bytes=80 * n if body_bytes is None else body_bytes,
        is_single=n == 1,
    )


def long_batch(prefix: str) -> EventBatch:
    return batch(*(f"{prefix}-{i}" for i in range(LONG_REQUEST_EVENTS_MIN)))


def everything(batches: Sequence[EventBatch]) -> bool:
    return True


def is_long(batches: Sequence[EventBatch]) -> bool:
    return len(batches[0]) >= LONG_REQUEST_EVENTS_MIN


def settings(**given: Any) -> Settings:
    return Settings(**{"consumer_workers": 1, **given})


Made = Callable[..., tuple[Intake, MemoryStore]]


@pytest.fixture
def make() -> Iterator[Made]:
    made: list[tuple[Intake, MemoryStore]] = []

    def make_one(
        on_impossible: Callable[[BaseException], None] | None = None, **given: Any
    ) -> tuple[Intake, MemoryStore]:
        store = MemoryStore()
        intake = Intake(
            store,  # type: ignore[arg-type]
            settings(**given),
            clock_us=lambda: 1_700_000_000_000_000,
            on_impossible=on_impossible,
        )
        intake.start()
        made.append((intake, store))
        return intake, store

    yield make_one
    for intake, store in made:
        store.release()
        assert intake.drain(WAIT_S_MAX)


async def joined(intake: Intake, *batches: EventBatch) -> list[asyncio.Task[Published]]:
    """Tasks that have joined the intake, in this order."""
    tasks = [asyncio.ensure_future(intake.publish(each)) for each in batches]
    await asyncio.sleep(0)
    return tasks


async def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, work, *args)


async def test_a_publish_is_answered_once_it_is_committed(make: Made) -> None:
    intake, store = make()
    published = await intake.publish(batch("a", "b", "a"))
    assert list(published.outcome.offsets) == [1, 2, 1]
    assert published.outcome.statuses == [ReceiptStatus.STORED, ReceiptStatus.STORED, ReceiptStatus.DUPLICATE]
    assert published.queued == 3
    assert store.stamps == [1_700_000_000_000_000]
    assert (intake.depth_events, intake.depth_bytes) == (0, 0)


async def test_an_empty_batch_is_answered_without_a_commit(make: Made) -> None:
    intake, store = make()
    published = await intake.publish(batch())
    assert (list(published.outcome.offsets), published.queued, store.groups) == ([], 0, [])


async def test_what_arrives_during_a_commit_is_the_next_group(make: Made) -> None:
    intake, store = make()
    store.hold(everything)
    tasks = await joined(intake, batch("first"))
    await in_thread(store.wait_preparing, 1)
    tasks += await joined(intake, *(batch(f"{i}", f"{i}b") for i in range(50)))
    assert intake.depth_events == 101
    store.release()
    answers = await asyncio.gather(*tasks)
    assert [len(group) for group in store.groups] == [1, 50]
    assert [answer.queued for answer in answers] == [1, *range(3, 102, 2)]
    assert intake.depth_events == 0


async def test_a_group_is_bounded_and_no_request_spans_two(make: Made) -> None:
    intake, store = make(group_events_max=10, group_bytes_max=2_000)
    store.hold(everything)
    tasks = await joined(intake, batch("first"))
    await in_thread(store.wait_preparing, 1)
    sizes = [4, 4, 4, 12, 1, 9, 1]
    tasks += await joined(intake, *(batch(*(f"{n}-{i}" for i in range(size))) for n, size in enumerate(sizes)))
    tasks += await joined(intake, *(batch(f"large-{i}", body_bytes=1_500) for i in range(2)))
    store.release()
    await asyncio.gather(*tasks)
    assert [[len(each) for each in group] for group in store.groups] == [[1], [4, 4], [4], [12], [1, 9], [1, 1], [1]]


async def test_short_requests_pass_a_long_one_that_is_being_prepared(make: Made) -> None:
    intake, store = make(consumer_workers=2)
    store.hold(is_long)
    (long_task,) = await joined(intake, long_batch("long"))
    await in_thread(store.wait_preparing, 1)
    for i in range(20):
        await asyncio.wait_for(intake.publish(batch(f"short-{i}")), WAIT_S_MAX)
    assert not long_task.done()
    store.release()
    assert len((await long_task).outcome.offsets) == LONG_REQUEST_EVENTS_MIN
    assert len(store.groups[-1]) == 1


async def test_long_requests_leave_one_worker_to_the_short_ones(make: Made) -> None:
    intake, store = make(consumer_workers=3)
    store.hold(is_long)
    tasks = await joined(intake, *(long_batch(f"long{i}") for i in range(6)))
    await in_thread(store.wait_preparing, 2)
    await asyncio.wait_for(intake.publish(batch("short")), WAIT_S_MAX)
    assert sum(is_long(group) for group in store.preparing) == 2
    store.release()
    await asyncio.gather(*tasks)


async def test_a_few_short_requests_wait_for_the_group_before_and_many_do_not(make: Made) -> None:
    intake, store = make(consumer_workers=2)
    store.hold(everything)
    tasks = await joined(intake, batch("first"))
    await in_thread(store.wait_preparing, 1)
    lots = [OVERLAP_EVENTS_MIN // 2, OVERLAP_EVENTS_MIN - OVERLAP_EVENTS_MIN // 2 - 1]
    tasks += await joined(intake, *(batch(*(f"{lot}-{i}" for i in range(size))) for lot, size in enumerate(lots)))
    assert len(store.preparing) == 1
    tasks += await joined(intake, batch("one more"))
    await in_thread(store.wait_preparing, 2)
    store.release()
    await asyncio.gather(*tasks)
    assert sorted(len(group) for group in store.groups) == [1, 3]


async def test_lanes_take_turns_so_neither_starves(make: Made) -> None:
    intake, store = make(group_events_max=2)
    store.hold(everything)
    tasks = await joined(intake, batch("first"))
    await in_thread(store.wait_preparing, 1)
    heavy = batch("heavy", body_bytes=LONG_REQUEST_BYTES_MIN)
    tasks += await joined(intake, long_batch("a"), heavy, *(batch(f"short-{i}") for i in range(8)))
    store.release()
    await asyncio.gather(*tasks)
    lanes = ["long" if is_long(group) or group == [heavy] else "short" for group in store.groups]
    assert lanes == ["short", "long", "short", "long", "short", "short", "short"]


async def test_beyond_its_bounds_the_intake_refuses_at_once(make: Made) -> None:
    intake, store = make(intake_events_max=10, intake_bytes_max=2_000)
    store.hold(everything)
    tasks = await joined(intake, batch(*"abcdefgh"))
    assert intake.has_room
    with pytest.raises(Overloaded) as events_refused:
        await intake.publish(batch("i", "j", "k"))
    with pytest.raises(Overloaded):
        await intake.publish(batch("l", body_bytes=1_500))
    assert events_refused.value.retry_after_s == 1
    tasks += await joined(intake, batch("m", "n"))
    assert not intake.has_room
    store.release()
    await asyncio.gather(*tasks)
    assert "i" not in {key[1] for key in store.offsets}


async def test_a_request_larger_than_the_bounds_is_admitted_to_an_empty_intake(make: Made) -> None:
    intake, _ = make(intake_events_max=10, intake_bytes_max=2_000)
    published = await intake.publish(batch(*(str(i) for i in range(100)), body_bytes=1_000_000))
    assert published.queued == 100


async def test_a_cancelled_waiter_still_gets_its_events_stored(make: Made) -> None:
    intake, store = make()
    store.hold(everything)
    tasks = await joined(intake, batch("first"), batch("gone"), batch("last"))
    await in_thread(store.wait_preparing, 1)
    tasks[1].cancel()
    store.release()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(answers[1], asyncio.CancelledError)
    assert {key[1] for key in store.offsets} == {"first", "gone", "last"}
    assert intake.depth_events == 0


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often a worker wakes it."""

    def __init__(self) -> None:
        super().__init__()
        self.wakes = 0

    def call_soon_threadsafe(self, *args: Any, **named: Any) -> asyncio.Handle:
        self.wakes += threading.current_thread().name.startswith("sekali-intake")
        return super().call_soon_threadsafe(*args, **named)


def test_several_event_loops_publish_at_once_and_each_is_woken_once_a_group(make: Made, rng: random.Random) -> None:
    intake, store = make(consumer_workers=3)
    store.hold(everything)
    sizes = [rng.randrange(1, 40) for _ in range(4)]
    answers: dict[int, list[Published]] = {}
    loops = [CountingLoop() for _ in sizes]

    def run(number: int) -> None:
        async def publish_all() -> list[Published]:
            return await asyncio.gather(*(intake.publish(batch(f"{number}-{i}")) for i in range(sizes[number])))

        answers[number] = loops[number].run_until_complete(publish_all())
        loops[number].close()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(sizes))]
    for thread in threads:
        thread.start()
    wait_until(lambda: intake.depth_events == sum(sizes))
    store.release()
    for thread in threads:
        thread.join(WAIT_S_MAX)
    assert sorted(o for each in answers.values() for a in each for o in a.outcome.offsets) == [
        *range(1, sum(sizes) + 1)
    ]
    assert all(loop.wakes <= len(store.groups) for loop in loops)


def test_a_loop_that_was_closed_meanwhile_is_no_error(make: Made) -> None:
    intake, store = make()
    store.hold(everything)
    loop = asyncio.new_event_loop()
    waiter = loop.create_task(intake.publish(batch("left-behind")))
    loop.run_until_complete(asyncio.sleep(0))
    waiter.cancel()
    loop.run_until_complete(asyncio.gather(waiter, return_exceptions=True))
    loop.close()
    store.release()
    assert list(intake.publish_now(batch("after")).outcome.offsets) == [2]


@pytest.mark.parametrize("error", [DiskFull("full"), OutcomeUnknown("perhaps", retry_after_s=7)])
async def test_a_store_error_fails_every_waiter_of_the_group_with_its_own_instance(
    make: Made, error: SekaliError
) -> None:
    intake, store = make()
    store.hold(everything)
    tasks = await joined(intake, batch("first"))
    await in_thread(store.wait_preparing, 1)
    tasks += await joined(intake, *(batch(str(i)) for i in range(5)))
    store.fail = lambda _: error
    store.release()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(answer) for answer in answers} == {type(error)}
    assert len({id(answer) for answer in answers}) == 6
    assert all(a.detail == error.detail and a.retry_after_s == error.retry_after_s for a in answers)  # type: ignore[union-attr]
    store.fail = lambda _: None
    assert list((await intake.publish(batch("next"))).outcome.offsets) == [1]


async def test_a_request_that_the_store_refuses_does_not_fail_the_others_of_its_group(
    make: Made, rng: random.Random
) -> None:
    intake, store = make()
    store.hold(everything)
    tasks = await joined(intake, batch("first"))
    await in_thread(store.wait_preparing, 1)
    poisoned = set(rng.sample(range(40), 3))
    store.fail = lambda batches: (
        TooManyTopics("no more") if any(each.topics[0] == "one-too-many" for each in batches) else None
    )
    tasks += await joined(intake, *(batch(f"{i}", topic="one-too-many" if i in poisoned else "t") for i in range(40)))
    store.release()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert {i for i, answer in enumerate(answers[1:]) if isinstance(answer, TooManyTopics)} == poisoned
    assert sum(isinstance(answer, Published) for answer in answers) == 38
    assert len(store.offsets) == 38


async def test_the_impossible_leaves_no_waiter_hanging_and_stops_the_intake(
    make: Made, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[BaseException] = []
    intake, store = make(told.append, consumer_workers=2)
    store.hold(everything)
    tasks = await joined(intake, batch("a"))
    await in_thread(store.wait_preparing, 1)
    half = OVERLAP_EVENTS_MIN // 2
    tasks += await joined(intake, *(batch(*(f"b{lot}-{i}" for i in range(half))) for lot in range(2)))
    await in_thread(store.wait_preparing, 2)
    tasks += await joined(intake, batch("c"), batch("d"))
    store.fail = lambda _: ZeroDivisionError("impossible")
    store.release()
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), WAIT_S_MAX)
    assert isinstance(answers[0], OutcomeUnknown)
    assert {type(answer) for answer in answers} <= {OutcomeUnknown, Draining}
    assert isinstance(told[0], ZeroDivisionError)
    assert len(told) == 1
    with pytest.raises(Draining):
        await intake.publish(batch("e"))
    assert "ZeroDivisionError" in caplog.text
    assert intake.depth_events == 0


async def test_draining_finishes_what_was_admitted_and_refuses_the_rest(make: Made) -> None:
    intake, store = make(consumer_workers=2)
    store.hold(everything)
    tasks = await joined(intake, *(batch(str(i)) for i in range(10)))
    drained = asyncio.ensure_future(in_thread(intake.drain, WAIT_S_MAX))
    await in_thread(wait_until, lambda: intake._closed is not None)
    with pytest.raises(Draining) as refusal:
        await intake.publish(batch("late"))
    assert refusal.value.retry_after_s is not None
    store.release()
    assert await drained
    assert len(await asyncio.gather(*tasks)) == 10
    assert not any(thread.is_alive() for thread in intake._threads)


async def test_a_drain_that_takes_too_long_answers_what_was_not_begun(make: Made) -> None:
    intake, store = make()
    store.hold(everything)
    begun, *waiting = await joined(intake, batch("begun"))
    await in_thread(store.wait_preparing, 1)
    waiting = await joined(intake, batch("waiting"))
    assert not await in_thread(intake.drain, 0.05)
    with pytest.raises(Draining):
        await waiting[0]
    store.release()
    assert list((await begun).outcome.offsets) == [1]
    assert len(store.offsets) == 1


def test_threads_publish_without_an_event_loop(make: Made) -> None:
    intake, store = make()
    assert intake.publish_now(batch("a")).queued == 1
    store.fail = lambda _: DiskFull("full")
    with pytest.raises(DiskFull):
        intake.publish_now(batch("b"))


def test_a_stuck_store_does_not_hold_up_the_interpreters_exit() -> None:
    program = textwrap.dedent("""
        import asyncio, threading
        from sekali.intake import Intake
        from sekali.settings import Settings
        from tests.unit.test_intake import batch
        class Stuck:
            entered = threading.Event()
            def prepare(self, batches):
                self.entered.set()
                threading.Event().wait()
        intake = Intake(Stuck(), Settings())
        intake.start()
        async def publish():
            try:
                await asyncio.wait_for(intake.publish(batch("a")), 0.1)
            except asyncio.TimeoutError:
                assert Stuck.entered.is_set()
                print("left")
        asyncio.run(publish())
    """)
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = ['src', '.']\n{program}"],
        cwd=root,
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_S_MAX,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left\n", "")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S_MAX
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
