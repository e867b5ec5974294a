"""When to send a request again, and after how long.

Every request of the client may be repeated without harm: reading changes nothing, and publishing the same
(topic, event_id) again stores nothing twice. So whatever may pass is tried again, an unknown outcome included.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay

from sekali.errors import SekaliError, UnexpectedAnswer

Answer = TypeVar("Answer")

PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 507})
"""Statuses of answers without a code of ours (a proxy's, say) that may be gone at the next try."""


def may_pass(error: BaseException) -> bool:
    """Whether the same request can succeed later."""
    if isinstance(error, UnexpectedAnswer):
        return error.answered_status in PASSING_STATUSES
    return isinstance(error, SekaliError) and error.may_pass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015), in seconds.

    A `Retry-After` of the server is the least that is waited, up to `retry_after_s_max`. A request is given up, with
    the error of its last try, before a wait that would end later than `give_up_after_s` after its first try; 0 means
    one try only.
    """

    give_up_after_s: float = 60.0
    first_wait_s: float = 0.1
    wait_s_max: float = 10.0
    retry_after_s_max: float = 60.0
    on_retry: Callable[[SekaliError, float], None] | None = None
    """Called before each wait with the error and the seconds to wait."""
    sleep: Callable[[float], None] = time.sleep
    fraction: Callable[[], float] = random.random
    """A number from [0, 1): the jitter."""

    def call(self, request: Callable[[], Answer]) -> Answer:
        """What `request` returns at its first success. Raises the last error, or at once one that will not pass."""
        if self.give_up_after_s <= 0:
            return request()
        retrying = Retrying(
            retry=retry_if_exception(may_pass),
            wait=self._wait_s,
            stop=stop_before_delay(self.give_up_after_s),
            sleep=self.sleep,
            before_sleep=self._announce,
            reraise=True,
        )
        return retrying(request)

    def wait_s(self, tries: int, error: BaseException | None) -> float:
        """Seconds to wait after so many failed tries (1 at least), of which `error` was the last."""
        backoff_s = min(self.wait_s_max, self.first_wait_s * 2.0 ** min(tries - 1, 30)) * self.fraction()
        asked_s = error.retry_after_s if isinstance(error, SekaliError) else None
        if asked_s is None:
            return backoff_s
        # Many senders are told the same second: spread them behind it.
        return min(float(asked_s), self.retry_after_s_max) + backoff_s

    def _wait_s(self, state: RetryCallState) -> float:
        return self.wait_s(state.attempt_number, state.outcome.exception() if state.outcome else None)

    def _announce(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if self.on_retry is not None and isinstance(error, SekaliError):
            self.on_retry(error, state.upcoming_sleep)


ONCE = RetryPolicy(give_up_after_s=0)
"""No retry: the first error is raised."""
