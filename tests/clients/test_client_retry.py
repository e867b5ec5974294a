"""When the client tries again, after how long, and when it gives up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from sekali import errors
from sekali.client.problems import parse_retry_after
from sekali.client.retry import ONCE, RetryPolicy, may_pass


class Failing:
    """Fails so often, then succeeds."""

    def __init__(self, *failures: errors.SekaliError) -> None:
        self._failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return "done"


def policy(waits: list[float], *, give_up_after_s: float = 1000.0) -> RetryPolicy:
    return RetryPolicy(give_up_after_s=give_up_after_s, sleep=waits.append, fraction=lambda: 1.0)


def unexpected(status: int) -> errors.UnexpectedAnswer:
    error = errors.UnexpectedAnswer("x")
    error.answered_status = status
    return error


@pytest.mark.parametrize(
    "error",
    [
        errors.ServerUnreachable("x"),
        errors.Overloaded("x"),
        errors.Draining("x"),
        errors.IndexRebuilding("x"),
        errors.OutcomeUnknown("x"),
        errors.DiskFull("x"),
        errors.BodyTooSlow("x"),
        errors.InternalError("x"),
        *(unexpected(status) for status in (408, 429, 500, 502, 503, 504)),
    ],
    ids=lambda error: f"{error.code}-{getattr(error, 'answered_status', '')}",
)
def test_what_may_pass_is_tried_again(error: errors.SekaliError) -> None:
    waits: list[float] = []
    request = Failing(error, error)
    assert policy(waits).call(request) == "done"
    assert request.calls == 3
    assert waits == [0.1, 0.2]


@pytest.mark.parametrize(
    "error",
    [
        errors.NotJson("x"),
        errors.InvalidEvent("x"),
        errors.BodyTooLarge("x"),
        errors.TooManyTopics("x"),
        errors.EventNotFound("x"),
        errors.StoreCorrupt("x"),
        unexpected(404),
        unexpected(0),
    ],
    ids=lambda error: error.code,
)
def test_what_will_not_pass_is_raised_at_once(error: errors.SekaliError) -> None:
    waits: list[float] = []
    with pytest.raises(type(error)):
        policy(waits).call(Failing(error))
    assert waits == []


def test_waits_double_up_to_the_longest() -> None:
    waits: list[float] = []
    policy(waits).call(Failing(*[errors.Overloaded("x")] * 10))
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0])


def test_the_jitter_spreads_a_wait_from_nothing_to_the_whole() -> None:
    waits: list[float] = []
    fractions = iter([0.0, 0.25, 0.5])
    spread = RetryPolicy(give_up_after_s=1000, sleep=waits.append, fraction=lambda: next(fractions))
    spread.call(Failing(*[errors.Overloaded("x")] * 3))
    assert waits == pytest.approx([0.0, 0.05, 0.2])


def test_retry_after_is_the_least_that_is_waited() -> None:
    waits: list[float] = []
    policy(waits).call(Failing(errors.Overloaded("x", retry_after_s=7), errors.Overloaded("x", retry_after_s=9999)))
    assert waits == pytest.approx([7.1, 60.2])


def test_it_gives_up_with_the_last_error_before_a_wait_that_would_end_too_late() -> None:
    waits: list[float] = []
    request = Failing(errors.Overloaded("x"), errors.DiskFull("last", retry_after_s=30))
    with pytest.raises(errors.DiskFull, match="last"):
        policy(waits, give_up_after_s=20).call(request)
    assert waits == [0.1]


def test_once_means_one_try() -> None:
    request = Failing(errors.Overloaded("x"))
    with pytest.raises(errors.Overloaded):
        ONCE.call(request)
    assert request.calls == 1


def test_each_wait_is_announced() -> None:
    told: list[tuple[str, float]] = []
    waits: list[float] = []
    telling = RetryPolicy(sleep=waits.append, on_retry=lambda error, wait_s: told.append((error.code, wait_s)))
    telling.call(Failing(errors.Overloaded("x"), errors.ServerUnreachable("x")))
    assert told == [("overloaded", waits[0]), ("server_unreachable", waits[1])]


def test_an_error_of_the_programmer_is_not_tried_again() -> None:
    assert not may_pass(ValueError("x"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), (" 12 ", 12), ("-1", None), ("1.5", None), ("soon", None), ("", None), (None, None), ("٣", None)],
)
def test_retry_after_as_a_number(text: str | None, seconds: int | None) -> None:
    assert parse_retry_after(text) == seconds


def test_retry_after_as_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert parse_retry_after(format_datetime(later, usegmt=True)) in (98, 99, 100)
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0
