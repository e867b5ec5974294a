"""A process that forks while a store is open: the store stays the parent's, whatever the child does with it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sekali.errors import StoreLocked
from sekali.event import ReadQuery
from sekali.store.store import Store
from tests.contract.conftest import OpenStore
from tests.serving import ROOT
from tests.support.events import rows
from tests.support.stores import WAIT_S_MAX, store_settings

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork"),
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="RocksDB's own exit crashes in a forked child"),
]

COMMON = """
    import multiprocessing, os, signal, sys, traceback
    from pathlib import Path
    from sekali.errors import Draining, SekaliError, StoreUnusable
    from sekali.event import LedgerQuery, ReadQuery
    from sekali.settings import Settings
    from sekali.store.store import Store
    from tests.support.events import STAMP_US, batch_of, numbered
    from tests.support.stores import store_settings, wait_for

    PATH = Path(sys.argv[1])

    def append(store, prefix):
        store.append([batch_of(numbered(1000, prefix=prefix))], STAMP_US)

    def settle(store):
        # With a flush RocksDB has started its threads, which its own exit waits for.
        wait_for(lambda: store._seen.unwritten_keys == 0, "the index has every key")
        store._seen.flush()

    def files():
        paths = sorted(path for path in PATH.parent.rglob("*") if path.is_file() and path.name != "LOG")
        return {str(path): path.read_bytes() for path in paths}

    def is_refused(use):
        try:
            use()
        except StoreUnusable as error:
            assert "forked" in error.detail, error.detail
        else:
            raise AssertionError("not refused")

    def forked(child, *locks):
        # The child's exit code, once it has ended as the interpreter ends: atexit and destructors run. The locks are
        # held meanwhile, as by a thread that only the parent has.
        before = files()
        for lock in locks:
            lock.acquire()
        process = os.fork()
        for lock in locks if process else ():
            lock.release()
        if not process:
            signal.alarm(20)  # a child that hangs is ended, which its exit code tells
            try:
                child()
            except BaseException:
                traceback.print_exc()
                sys.exit(1)
            sys.exit(7)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert files() == before, "the child has written"
        return code
"""


@contextmanager
def script(path: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(COMMON) + textwrap.dedent(text), str(path)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    return process.stdout.readline().strip() or process.stderr.read()


def test_a_forked_child_can_neither_use_the_store_nor_harm_it(open_store: OpenStore, db_path: Path) -> None:
    text = """
        store = Store.open(store_settings(PATH))
        append(store, "before")
        settle(store)
        reading = store.read(ReadQuery(limit=1000))
        turn = store._appender.turn

        def child():
            for use in (
                lambda: append(store, "child"),
                lambda: next(store.read(ReadQuery())),
                lambda: next(reading),
                lambda: store.seen([("alpha", "before-0")]),
                lambda: store.event("alpha", "before-0"),
                lambda: store.totals(),
                lambda: store.topic_figures(),
                lambda: store.ledger(LedgerQuery()),
                lambda: store.readiness(),
                lambda: store.compact(),
                lambda: store.last_offset,
                lambda: store.failed,
                lambda: Store.open(store_settings(PATH)),
                lambda: Store.open(store_settings(PATH.with_name("another.db"))),
            ):
                is_refused(use)
            store.close()

        code = forked(child, turn, Store._open_stores_lock)
        print("child", code, flush=True)
        sys.stdin.readline()
        append(store, "after")
        store.close()
        print("closed", flush=True)
    """
    with script(db_path, text) as process:
        assert line_of(process) == "child 7"
        with pytest.raises(StoreLocked, match=rf"\b{process.pid}\b"):
            Store.open(store_settings(db_path, predecessor_wait_s=0.0))
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line_of(process) == "closed"
        assert process.wait(WAIT_S_MAX) == 0
    store = open_store()
    assert len(rows(store.read(ReadQuery()))) == store.totals().unique == 2000


def test_a_forked_child_destroys_nothing_when_it_ends(db_path: Path) -> None:
    """A store without threads: their frames, which nobody ends in the child, would keep alive what they use."""
    text = """
        store = Store.open(store_settings(PATH))
        settle(store)
        store._maintenance.close()
        append(store, "before")
        seen = store._seen
        with seen._changed:
            seen._is_closing = True
            seen._changed.notify_all()
        seen._writer.join()
        del seen
        assert not store._seen.unwritten_keys, "RocksDB would flush them"
        print("child", forked(lambda: None), flush=True)
    """
    with script(db_path, text) as process:
        assert line_of(process) == "child 7"


def test_a_child_of_multiprocessing_may_drop_the_store_and_start_nothing_new(db_path: Path) -> None:
    text = """
        store = Store.open(store_settings(PATH))
        append(store, "before")
        settle(store)
        before = files()

        def child():
            global store
            signal.alarm(20)
            is_refused(lambda: append(store, "child"))
            del store
            is_refused(lambda: Store.open(store_settings(PATH)))

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join()
        assert files() == before
        append(store, "after")
        store.close()
        print("child", process.exitcode, flush=True)
    """
    with script(db_path, text) as process:
        assert line_of(process) == "child 0"


def test_an_application_that_is_forked_with_its_store_open_refuses_and_exits_without_touching_it(
    db_path: Path,
) -> None:
    """No lifespan runs: the store was opened by a request, and is to be closed when the interpreter ends."""
    text = """
        import asyncio, httpx
        from sekali.http.app import create_app

        app = create_app(store_settings(PATH))

        def publish(event_id):
            event = dict(topic="t", event_id=event_id, timestamp="2024-01-01T00:00:00Z", source="s", payload={})

            async def post():
                transport = httpx.ASGITransport(app=app)
                async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                    return await client.post("/publish", json=event)

            answer = asyncio.run(post())
            return answer.status_code, answer.json().get("code", "")

        def child():
            refused = publish("child")
            assert refused == (503, "draining"), refused

        assert publish("before")[0] == 200
        hub = app.lifecycle.current.hub
        settle(hub._store)
        code = forked(child, app.lifecycle._lock, hub._close_lock, hub._intake._lock)
        assert publish("after")[0] == 200
        print("child", code, flush=True)
    """
    with script(db_path, text) as process:
        assert line_of(process) == "child 7"
        assert process.wait(WAIT_S_MAX) == 0
    store = Store.open(store_settings(db_path))
    assert store.totals().unique == 2
    store.close()
