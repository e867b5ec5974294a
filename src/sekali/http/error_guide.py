"""What every error code means, when it happens, and what to do: the one place where codes are explained.

Served at `/errors` and `/errors/<code>`, which is where the `type` of a problem document leads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sekali.errors import ClientError, SekaliError, StoreUnusable
from sekali.http.params import PARAMETER_CODE_MEANINGS
from sekali.wire.rules import ITEM_CODE_MEANINGS


@dataclass(frozen=True, slots=True)
class Explanation:
    """When a code is answered, and what the sender does about it."""

    when: str
    remedy: str


EXPLANATIONS: Final[dict[str, Explanation]] = {
    "not_json": Explanation(
        "The body is empty, cut off, not UTF-8, or breaks the JSON grammar: NaN, a trailing comma, a comment, a byte "
        "order mark, two documents after one another, a lone half of a surrogate pair.",
        "Send one JSON document in UTF-8. `python -m json.tool < FILE` finds the place. With curl, `-d` removes line "
        "ends from a file: use `--data-binary @FILE`.",
    ),
    "wrong_root": Explanation(
        "The body is valid JSON, but its root is a string, a number, true, false or null.",
        "Send one object, or an array of objects.",
    ),
    "body_too_slow": Explanation(
        "The body did not arrive within SEKALI_BODY_DEADLINE_S seconds plus one second for every "
        "SEKALI_BODY_RATE_BYTES_S_MIN bytes of it. Nothing was stored.",
        "Send it again, or smaller batches; or raise those settings for senders on slow lines.",
    ),
    "body_too_large": Explanation(
        "The body has more bytes than SEKALI_BODY_BYTES_MAX. Nothing was stored.",
        "Send the events in several requests.",
    ),
    "too_many_events": Explanation(
        "The array has more items than SEKALI_BATCH_EVENTS_MAX. Nothing was stored.",
        "Send the events in several requests.",
    ),
    "event_too_large": Explanation(
        "One event has more bytes than SEKALI_EVENT_BYTES_MAX. Nothing of the request was stored.",
        "Keep large content elsewhere and publish a reference to it, or raise the setting. With `?partial=true` the "
        "other events of the request are stored.",
    ),
    "head_too_large": Explanation(
        "The request line and the headers, or trailers after a body, have more than 64 KiB. Nothing was stored, and "
        "the connection is closed.",
        "Send fewer or shorter headers; what belongs to an event goes into the body.",
    ),
    "unsupported_media_type": Explanation(
        "The Content-Type is not JSON, or a web page sent none. Form and text types are refused because any web page "
        "may send them to any server without asking first.",
        "Send `content-type: application/json`. curl sends a form type unless told: "
        "`-H 'content-type: application/json'`.",
    ),
    "unsupported_encoding": Explanation(
        "The body has a Content-Encoding that this server does not take.",
        "Send the body as it is, without that header.",
    ),
    "invalid_event": Explanation(
        "An event breaks a rule: a field is missing or of the wrong type, a name is too long, a timestamp is not "
        "ISO 8601. `errors` has a JSON Pointer to each place, the first 100 of `errors_total`. Nothing of the request "
        "was stored.",
        "Correct the events and send them again. With `?partial=true` the good ones are stored and each bad one is "
        "told in its receipt.",
    ),
    "invalid_parameter": Explanation(
        "A query parameter is unknown, repeated, out of range, or cannot be read. Unknown names are refused because a "
        "slip such as `topics=` would otherwise return everything.",
        "`errors` names each parameter and its rule. /docs lists what every path takes.",
    ),
    "too_many_topics": Explanation(
        "The request would start a topic beyond SEKALI_TOPICS_MAX. Nothing of it was stored.",
        "Put what varies from event to event into event_id, source or payload, not into the topic; or raise the "
        "setting.",
    ),
    "not_found": Explanation(
        "Nothing is served at that path.",
        "Check the path. / and /docs list all there are.",
    ),
    "event_not_found": Explanation(
        "No event with that topic and event_id was ever stored. Names are compared byte for byte: case, accents and "
        "spelling count.",
        "Check both names, or publish the event.",
    ),
    "method_not_allowed": Explanation(
        "The path exists but does not answer to that method.",
        "The Allow header lists the methods it answers to.",
    ),
    "payload_gone": Explanation(
        "The event was stored, and its payload has been dropped since, by retention or erasure. Its id is kept for "
        "ever: publishing it again is still a duplicate.",
        "There is nothing to read back any more.",
    ),
    "overloaded": Explanation(
        "The intake, or the memory for bodies in flight, is full: more arrives than the disk takes. Nothing of this "
        "request was stored.",
        "Wait as long as Retry-After says and send the same request again. Larger batches get more through.",
    ),
    "draining": Explanation(
        "The server is shutting down or has stopped taking events. Nothing of this request was stored.",
        "Send the same request again after Retry-After; the server may be back by then.",
    ),
    "index_rebuilding": Explanation(
        "The index of ids already seen is being rebuilt from the log, because it was missing or did not match. "
        "Reading works meanwhile; publishing and looking up ids wait. Nothing of this request was stored.",
        "Wait as long as Retry-After says. /readyz shows the progress.",
    ),
    "outcome_unknown": Explanation(
        "Writing failed in a way that leaves open whether the events are on disk. The server stops and finds out when "
        "it starts again.",
        "Send the same events with the same ids again until the answer is 200: what was stored counts as a duplicate, "
        "nothing is stored twice.",
    ),
    "disk_full": Explanation(
        "The disk has less free space than SEKALI_DISK_FREE_BYTES_MIN, or is full. Nothing of this request was stored. "
        "Reading works.",
        "Free some space on the disk that holds the store. Publishing resumes by itself once "
        "SEKALI_DISK_FREE_BYTES_RESUME bytes are free; no restart is needed.",
    ),
    "not_ready": Explanation(
        "Only /readyz answers this: a publish sent now would be refused. `detail` gives every reason, `index` how far "
        "the index of seen ids has come.",
        "Send traffic to another server, or wait. Reading works.",
    ),
    "internal_error": Explanation(
        "The server met a situation that its authors did not foresee, or it could not read the store's file. `detail` "
        "says which.",
        "Look at the disk, or into the server's log. The same request may be sent again: ids make that safe.",
    ),
    "store_corrupt": Explanation(
        "Data read from the store does not match its checksum: the disk, the memory or another program changed it. "
        "It is not served. An answer that had begun was broken off.",
        "Stop the server, check the disk, and restore the store's file from a backup. The index beside it need not be "
        "restored, it is rebuilt.",
    ),
    "store_unusable": Explanation(
        "The store cannot be opened: the path is not writable, the file is not a Sekali store, or a setting is out "
        "of range. The server says why and exits with 1.",
        "Read the line it wrote, and correct DB_PATH or the setting it names.",
    ),
    "store_locked": Explanation(
        "Another process has the store open; one process at a time may. The server waits SEKALI_PREDECESSOR_WAIT_S "
        "seconds for it, then names its process id and exits with 1.",
        "Stop the other process, or give this one a DB_PATH of its own. Start one worker: CONSUMER_WORKERS sets the "
        "number of its threads.",
    ),
}


def server_errors() -> list[type[SekaliError]]:
    """Every error class of the server that has a code of its own, by status and code; those without a status last."""
    found: list[type[SekaliError]] = []
    waiting = list(SekaliError.__subclasses__())
    while waiting:
        error = waiting.pop()
        waiting += error.__subclasses__()
        if "code" in vars(error) and not issubclass(error, ClientError):
            found.append(error)
    return sorted(found, key=lambda error: (ends_process(error), error.status, error.code))


def ends_process(error: type[SekaliError]) -> bool:
    """Whether the process refuses to start with this error, and so rarely gets to answer anybody with it."""
    return issubclass(error, StoreUnusable)


ERRORS_BY_CODE: Final = {error.code: error for error in server_errors()}

RULES_BY_CODE: Final[dict[str, dict[str, str]]] = {
    "invalid_event": {str(code): meaning for code, meaning in ITEM_CODE_MEANINGS.items()},
    "invalid_parameter": {str(code): meaning for code, meaning in PARAMETER_CODE_MEANINGS.items()},
}
"""For the errors that list broken rules: the codes of those rules."""


def explained(error: type[SekaliError]) -> dict[str, Any]:
    """All that is known of a code, as the JSON of `/errors/<code>`."""
    explanation = EXPLANATIONS[error.code]
    document: dict[str, Any] = {
        "code": error.code,
        "status": None if ends_process(error) else error.status,
        "title": error.title,
        "when": explanation.when,
        "remedy": explanation.remedy,
        "try_again": error.may_pass,
    }
    if error.code in RULES_BY_CODE:
        document["rules"] = RULES_BY_CODE[error.code]
    return document
