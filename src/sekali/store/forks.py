"""A fork leaves open stores to the parent.

The child (of os.fork, or of multiprocessing's "fork") has copies of the parent's SQLite connections and of RocksDB, but
neither the locks on their files nor the threads behind them. Used there, or merely closed, they would write into the
parent's files or wait for ever ("How To Corrupt", section 2.6, sqlite.org). RocksDB's threads are those of the process,
so the child cannot open another store either. Where there is no fork (Windows), nothing here does anything.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from sekali.errors import StoreUnusable


def call_in_children(leave: Callable[[], None]) -> None:
    """`leave` is called in every child process that is forked from now on, before anything else runs there."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave)


def left_to_parent() -> StoreUnusable:
    """What any use of a store is refused with in the child."""
    return StoreUnusable(
        "This process was forked from one that had a store open, which stays the parent's alone. "
        'Start processes that use a store with multiprocessing\'s "spawn", or before opening one.'
    )


def keep_for_ever(owner: object) -> None:
    """Neither this object nor what it refers to is ever destroyed, not even when the interpreter ends: destructors of
    connections and of RocksDB close files, and RocksDB would flush first."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


def skip_native_exit() -> None:
    """Ends the process, at its exit, once Python is through: RocksDB's own exit waits for threads that only the parent
    has, and crashes. Where the C library has no `on_exit` (macOS, musl) it still does; no file is touched by that."""
    library = ctypes.CDLL(None)
    on_exit = getattr(library, "on_exit", None)
    if on_exit is not None:
        on_exit(ctypes.cast(library._exit, ctypes.c_void_p), None)
