"""Every error that Sekali raises on purpose.

SekaliError
 +-- RequestRefused            the sender must change the request; nothing was stored
 |    +-- NotJson              400  not_json
 |    +-- WrongRoot            400  wrong_root
 |    +-- BodyTooSlow          408  body_too_slow
 |    +-- BodyTooLarge         413  body_too_large
 |    +-- TooManyEvents        413  too_many_events
 |    +-- EventTooLarge        413  event_too_large
 |    +-- UnsupportedMedia     415  unsupported_media_type
 |    +-- UnsupportedEncoding  415  unsupported_encoding
 |    +-- InvalidEvent         422  invalid_event
 |    +-- InvalidParameter     422  invalid_parameter
 |    +-- TooManyTopics        429  too_many_topics
 +-- NotThere                  nothing to give back
 |    +-- RouteNotFound        404  not_found
 |    +-- EventNotFound        404  event_not_found
 |    +-- MethodNotAllowed     405  method_not_allowed
 |    +-- PayloadGone          410  payload_gone
 +-- TryAgain                  not now; the answer says when (Retry-After)
 |    +-- Overloaded           503  overloaded
 |    +-- Draining             503  draining
 |    +-- IndexRebuilding      503  index_rebuilding
 |    +-- OutcomeUnknown       503  outcome_unknown   (perhaps stored: send the same ids again)
 |    +-- DiskFull             507  disk_full
 |    +-- NotReady             503  not_ready         (what /readyz answers; no other path does)
 +-- InternalError             500  internal_error
 +-- ClientError               no status: raised by the client, never sent
 |    +-- ServerUnreachable        no answer: refused, unknown host, timed out, connection lost
 |    +-- UnexpectedAnswer         something answered, but not as Sekali does
 +-- StoreUnusable             no status: the process refuses to start, exit code 1
 |    +-- StoreLocked               another process has this store open
 |    +-- BackupRefused             no copy of the store was made
 +-- StoreCorrupt              500  store_corrupt     a checksum does not hold; never served as data

The code is stable: clients may switch on it. `SekaliError.status` is the one table from error to HTTP status, and
`SekaliError.may_pass` the one answer to whether trying again can help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule.

    `pointer` is a JSON Pointer (RFC 6901) into the request body (`/3/event_id`, `` for the whole body), or the name of
    a query parameter. `detail` never echoes the input.
    """

    pointer: str
    code: str
    detail: str


VIOLATIONS_SHOWN_MAX = 100


class SekaliError(Exception):
    """Base of all. `detail` says what is wrong and, where there is one, the command that mends it."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"
    may_pass: ClassVar[bool] = False
    """Whether the same request can succeed later, and so is worth sending again."""

    def __init__(
        self,
        detail: str,
        *,
        violations: Sequence[Violation] = (),
        violations_total: int | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.violations = tuple(violations[:VIOLATIONS_SHOWN_MAX])
        self.violations_total = len(violations) if violations_total is None else violations_total
        self.retry_after_s = retry_after_s


class RequestRefused(SekaliError):
    """The sender must change the request. Nothing was stored."""


class NotJson(RequestRefused):
    code, status, title = "not_json", 400, "The body is not JSON"


class WrongRoot(RequestRefused):
    code, status, title = "wrong_root", 400, "The body is neither an object nor an array"


class BodyTooSlow(RequestRefused):
    code, status, title = "body_too_slow", 408, "The body did not arrive in time"
    may_pass = True


class BodyTooLarge(RequestRefused):
    code, status, title = "body_too_large", 413, "The body is too large"


class TooManyEvents(RequestRefused):
    code, status, title = "too_many_events", 413, "Too many events in one request"


class EventTooLarge(RequestRefused):
    code, status, title = "event_too_large", 413, "An event is too large"


class HeadTooLarge(RequestRefused):
    code, status, title = "head_too_large", 431, "The headers are too large"


class UnsupportedMedia(RequestRefused):
    code, status, title = "unsupported_media_type", 415, "The media type is not supported"


class UnsupportedEncoding(RequestRefused):
    code, status, title = "unsupported_encoding", 415, "The content encoding is not supported"


class InvalidEvent(RequestRefused):
    code, status, title = "invalid_event", 422, "An event breaks a rule"


class InvalidParameter(RequestRefused):
    code, status, title = "invalid_parameter", 422, "A parameter breaks a rule"


class TooManyTopics(RequestRefused):
    code, status, title = "too_many_topics", 429, "The store holds as many topics as it may"


class NotThere(SekaliError):
    """There is nothing to give back."""


class RouteNotFound(NotThere):
    code, status, title = "not_found", 404, "No such page"


class EventNotFound(NotThere):
    code, status, title = "event_not_found", 404, "No such event"


class MethodNotAllowed(NotThere):
    code, status, title = "method_not_allowed", 405, "The method is not allowed here"


class PayloadGone(NotThere):
    code, status, title = "payload_gone", 410, "The event was seen; its payload is gone"


class TryAgain(SekaliError):
    """Not now: the server knows that it can't, and says in `retry_after_s` when to come again."""

    may_pass = True


class Overloaded(TryAgain):
    code, status, title = "overloaded", 503, "The intake is full"


class Draining(TryAgain):
    code, status, title = "draining", 503, "The server is shutting down"


class IndexRebuilding(TryAgain):
    code, status, title = "index_rebuilding", 503, "The seen index is being rebuilt"


class OutcomeUnknown(TryAgain):
    code, status, title = "outcome_unknown", 503, "Whether the events were stored is not known"


class DiskFull(TryAgain):
    code, status, title = "disk_full", 507, "The disk is full"


class NotReady(TryAgain):
    """The answer of /readyz: a publish sent now would be refused. Its detail gives every reason."""

    code, status, title = "not_ready", 503, "The server is not ready"


class InternalError(SekaliError):
    code, status, title = "internal_error", 500, "Internal error"
    may_pass = True


class ClientError(SekaliError):
    """Raised by the client about its connection. Never sent, so its status means nothing."""

    code, title = "client_error", "The client failed"


class ServerUnreachable(ClientError):
    """No answer. Whether the request was carried out is not known; publishing the same ids again is safe."""

    code, title = "server_unreachable", "The server cannot be reached"
    may_pass = True


class UnexpectedAnswer(ClientError):
    """Something answered, but not as Sekali does: a proxy's page, another program on that port.

    `answered_status` is its HTTP status, which alone tells whether it may pass (client/retry.py).
    """

    code, title = "unexpected_answer", "The answer is not Sekali's"
    answered_status: int = 0


class StoreCorrupt(SekaliError):
    code, status, title = "store_corrupt", 500, "Stored data fails its checksum"


class StoreUnusable(SekaliError):
    """The store can't be opened: the process says why and exits with 1."""

    code, title = "store_unusable", "The store cannot be opened"


class StoreLocked(StoreUnusable):
    code, title = "store_locked", "Another process has the store open"


class BackupRefused(StoreUnusable):
    """The copy of a store cannot go where it was asked for. Raised by `sekali backup` only, never sent."""


def unexpected(what: str, error: BaseException) -> OutcomeUnknown:
    """What a thread of the store ends with that met an error nobody foresaw: the store has to stop."""
    return OutcomeUnknown(f"{what} met an unexpected {type(error).__name__}: {error}", retry_after_s=5)
