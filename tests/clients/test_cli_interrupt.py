"""Ctrl-C before and after a command does its work: 130, and no traceback."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sekali import cli
from sekali.__main__ import main


@pytest.fixture(autouse=True)
def _default_handler() -> Iterator[None]:
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def interrupted() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupted_command_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130


@pytest.mark.parametrize("work", [interrupted, lambda: None])
def test_once_a_command_has_ended_ctrl_c_ends_the_process_without_a_word(
    monkeypatch: pytest.MonkeyPatch, work: object
) -> None:
    monkeypatch.setattr(cli, "run", work)
    with suppress(SystemExit):
        main()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_where_ctrl_c_was_ignored_from_the_start_it_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "run", lambda: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
