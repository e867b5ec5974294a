"""Telling that requests fail for a while: once when it begins, once for each new reason, once when it is over."""

from __future__ import annotations

from rich.console import Console

from sekali.cli.terminal import visible
from sekali.errors import SekaliError


class Outage:
    """`begin` is what RetryPolicy calls before each wait; `end` is to be called after each success."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._reason: str | None = None

    def begin(self, error: SekaliError, _wait_s: float) -> None:
        if error.code != self._reason:
            self._reason = error.code
            self._console.print(f"{visible(error.detail)}; trying again")

    def end(self) -> None:
        if self._reason is not None:
            self._reason = None
            self._console.print("the server answers again")
