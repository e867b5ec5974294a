"""An example of every error that is answered, for the description: what the server really says.

Where the words come from this floor or below it by a function, the function is called. The others are written out, and
a test holds them to the places that raise them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sekali import errors
from sekali.errors import SekaliError, Violation
from sekali.http.body import BodyBudget, too_large, too_slow
from sekali.http.ledger import parse_ledger_request
from sekali.http.params import Parameters, parse_event_request, parse_events_request
from sekali.http.problems import INTERNAL_DETAIL, problem_document
from sekali.http.publish import checked_headers, publish_options
from sekali.settings import Settings
from sekali.wire.body import too_many
from sekali.wire.native import DecodeLimits, decode_publish, decode_seen

_SETTINGS: Final = Settings.model_construct()
"""The defaults: nothing is read from the environment."""
_LIMITS: Final = DecodeLimits(
    batch_events_max=_SETTINGS.batch_events_max,
    event_bytes_max=_SETTINGS.event_bytes_max,
    depth_max=_SETTINGS.depth_max,
    body_bytes_max=_SETTINGS.body_bytes_max,
)
_WITHOUT_ID: Final = b'[{"topic":"alpha","timestamp":"2024-01-01T00:00:00Z","source":"manual","payload":{}}]'
_REASON: Final = "the seen index is being rebuilt: 2400 of 4800 keys"


def problem_example(error: type[SekaliError], operation: str) -> dict[str, Any]:
    """The body of an answer with `error` to the operation of that name."""
    call = _OF_OPERATION.get((error, operation))
    example = _refused(call) if call is not None else _ANYWHERE[error]
    extra = {"index": {"done": 2400, "total": 4800}} if error is errors.NotReady else None
    return problem_document(example, extra)


def _refused(call: Callable[[], object]) -> SekaliError:
    """What `call` raises."""
    try:
        call()
    except SekaliError as error:
        return error
    raise AssertionError("an example of a refused request was taken")


def _too_large_event() -> bytes:
    return b'[{"payload":{"x":"%b"}}]' % (b"x" * _LIMITS.event_bytes_max)


def _two_bodies_where_one_fits() -> None:
    bodies = BodyBudget(1)
    for _ in range(2):
        bodies.take(1, 0)


def _checked(name: str, value: str) -> None:
    checked_headers({"headers": [(name.encode(), value.encode())]})


_OF_OPERATION: Final[dict[tuple[type[SekaliError], str], Callable[[], object]]] = {
    (errors.EventTooLarge, "publish"): lambda: decode_publish(_too_large_event(), _LIMITS),
    (errors.EventTooLarge, "seen"): lambda: decode_seen(_too_large_event(), _LIMITS),
    (errors.InvalidEvent, "publish"): lambda: decode_publish(_WITHOUT_ID, _LIMITS),
    (errors.InvalidEvent, "seen"): lambda: decode_seen(_WITHOUT_ID, _LIMITS),
    (errors.InvalidParameter, "publish"): lambda: publish_options(b"receipts=yes"),
    (errors.InvalidParameter, "events"): lambda: parse_events_request(b"limit=0", {}, _SETTINGS.page_events_max),
    (errors.InvalidParameter, "ledger"): lambda: parse_ledger_request(b"after=17", {}, _SETTINGS.page_events_max),
    (errors.InvalidParameter, "topics"): Parameters(b"page=2", single=("after", "limit")).check,
    (errors.Overloaded, "seen"): _two_bodies_where_one_fits,
    (errors.InvalidParameter, "event"): lambda: parse_event_request(b"topic=alpha"),
}

_ANYWHERE: Final[dict[type[SekaliError], SekaliError]] = {
    error.__class__: error
    for error in (
        _refused(lambda: decode_publish(b'{"topic":"alpha",}', _LIMITS)),
        _refused(lambda: decode_publish(b'"alpha"', _LIMITS)),
        too_slow(_SETTINGS),
        too_large(_SETTINGS),
        too_many(_LIMITS),
        _refused(lambda: _checked("content-type", "text/plain")),
        _refused(lambda: _checked("content-encoding", "gzip")),
        _refused(Parameters(b"page=2").check),
        errors.TooManyTopics(
            "The store holds 100000 topics and may hold 100000; nothing was stored. "
            "Raise SEKALI_TOPICS_MAX, or publish under fewer names."
        ),
        errors.RouteNotFound("No error has this code. /errors lists them all."),
        errors.EventNotFound("No event with this topic and event_id was ever stored."),
        errors.PayloadGone("The event at offset 17 was stored; its payload is gone."),
        errors.InternalError(INTERNAL_DETAIL),
        errors.StoreCorrupt("Block 7 is missing. Restore the file from a backup."),
        errors.Overloaded("The intake is full. Wait as Retry-After says, then send the same events again."),
        errors.Draining("The server is shutting down; this request was not carried out. Send it again."),
        errors.IndexRebuilding(
            "The seen index is being rebuilt: 2400 of 4800 events. Nothing is stored until it is complete; "
            "reading works meanwhile."
        ),
        errors.OutcomeUnknown(
            "The store failed while writing (disk I/O error). Send the same events again after it has restarted."
        ),
        errors.DiskFull(
            "Only 1048576 bytes are free on the disk of the store. Nothing is stored until there are 134217728."
        ),
        errors.NotReady(f"Not ready: {_REASON}.", violations=[Violation("", errors.NotReady.code, _REASON)]),
    )
}
