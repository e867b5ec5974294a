"""The OpenAPI 3.1 description of every path, with examples and with each error it may answer.

Written out rather than derived: the handlers read requests themselves, so FastAPI has nothing to derive it from. A test
holds it to the routes, to the error classes and to real answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from starlette.responses import Response

from sekali import __version__, errors
from sekali.errors import SekaliError
from sekali.http import openapi_schemas as schemas
from sekali.http.error_guide import explained, server_errors
from sekali.http.openapi_problems import problem_example
from sekali.http.openapi_schemas import Schema, array_of, ref
from sekali.http.problems import PROBLEM_MEDIA_TYPE, json_response

PATH: Final = "/openapi.json"

_DESCRIPTION: Final = """\
A log of events that keeps every `(topic, event_id)` exactly once. Send as often as you like: an answer of 200 means
that everything in the request is on disk, and a repeat is told from a first.

Failures are problem documents (RFC 9457) with a stable `code`; [/errors](/errors) explains each. A path that does not
exist is 404 `not_found`, a method it does not take is 405 `method_not_allowed`. Headers of more than 64 KiB are 431
`head_too_large`. `HEAD` works wherever `GET` does.
"""

_TAGS: Final = [
    {"name": "Publish", "description": "Hand events in."},
    {"name": "Read", "description": "Get events back, or ask whether an id is known."},
    {"name": "Observe", "description": "What the server holds, and how it is."},
    {"name": "Pages", "description": "For people with a browser."},
]

_BODY_ERRORS: Final[tuple[type[SekaliError], ...]] = (
    errors.NotJson,
    errors.WrongRoot,
    errors.BodyTooSlow,
    errors.BodyTooLarge,
    errors.TooManyEvents,
    errors.EventTooLarge,
    errors.UnsupportedMedia,
    errors.UnsupportedEncoding,
    errors.InvalidEvent,
    errors.InvalidParameter,
    errors.Overloaded,
    errors.Draining,
    errors.IndexRebuilding,
)


def install(app: FastAPI) -> None:
    """Make this the app's description, and serve it in place of FastAPI's own route."""
    app.openapi = document  # type: ignore[method-assign]
    for route in list(app.router.routes):
        if getattr(route, "path", None) == PATH:
            app.router.routes.remove(route)
    app.add_route(PATH, _serve, methods=["GET", "HEAD"], include_in_schema=False)


async def _serve(request: Request) -> Response:
    root_path = request.scope.get("root_path", "").rstrip("/")
    served = {**document(), "servers": [{"url": root_path}]} if root_path else document()
    return json_response(msgspec.json.encode(served))


@cache
def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Sekali",
            "summary": "A pub-sub log aggregator that keeps every event exactly once.",
            "description": _DESCRIPTION,
            "version": __version__,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": _TAGS,
        "paths": {**_publish_paths(), **_read_paths(), **_observe_paths(), **_page_paths()},
        "components": {"schemas": schemas.SCHEMAS},
    }


# Building blocks


def _operation(
    name: str,
    tag: str,
    summary: str,
    *,
    answers: dict[str, Any],
    description: str = "",
    parameters: Sequence[Schema] = (),
    body: Schema | None = None,
    refusals: Sequence[type[SekaliError]] = (),
) -> Schema:
    operation: Schema = {"operationId": name, "tags": [tag], "summary": summary}
    if description:
        operation["description"] = description
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": body}}
    operation["responses"] = {**answers, **_problems(name, (*refusals, errors.InternalError))}
    return operation


def _problems(operation: str, refusals: Sequence[type[SekaliError]]) -> Schema:
    by_status: defaultdict[int, list[type[SekaliError]]] = defaultdict(list)
    for error in server_errors():
        if error in refusals:
            by_status[error.status].append(error)
    return {str(status): _problem(operation, found) for status, found in sorted(by_status.items())}


def _problem(operation: str, found: Sequence[type[SekaliError]]) -> Schema:
    """One status of an operation: which codes it comes with, and an example of each."""
    codes = [error.code for error in found]
    answer: Schema = {
        "description": "; ".join(f"`{error.code}`: {error.title}" for error in found) + ".",
        "content": {
            PROBLEM_MEDIA_TYPE: {
                "schema": {"allOf": [ref("Problem"), {"properties": {"code": {"enum": codes}}}]},
                "examples": {error.code: {"value": problem_example(error, operation)} for error in found},
            }
        },
    }
    if any(issubclass(error, errors.TryAgain) for error in found):
        text = "Seconds to wait before the same request is worth sending again."
        answer["headers"] = {"Retry-After": {"description": text, "schema": {"type": "integer", "minimum": 1}}}
    return answer


def _json(text: str, schema: Schema, example: Any, headers: Schema | None = None) -> dict[str, Any]:
    answer: Schema = {"description": text, "content": {"application/json": {"schema": schema, "example": example}}}
    return {"200": {**answer, "headers": headers} if headers else answer}


def _html(text: str) -> dict[str, Any]:
    return {"200": {"description": text, "content": {"text/html": {"schema": {"type": "string"}}}}}


def _query(name: str, text: str, schema: Schema, **more: Any) -> Schema:
    return {"name": name, "in": "query", "description": text, "schema": schema, **more}


_FLAG: Final[Schema] = {"type": "boolean", "default": False}
_CURSOR: Final[Schema] = {"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$"}
_ISO_TIME: Final[Schema] = {"type": "string", "examples": ["2024-01-01T00:00:00Z"]}
_LINK: Final[Schema] = {
    "Link": {
        "description": '`<...>; rel="next"` (RFC 8288) exactly if there is more; every filter is kept in it.',
        "schema": {"type": "string"},
    }
}


def _limit(default: int | None) -> Schema:
    schema: Schema = {"type": "integer", "minimum": 1, "maximum": 10_000}
    return schema if default is None else {**schema, "default": default}


# The paths


def _publish_paths() -> dict[str, Any]:
    one_or_many: Schema = {
        "schema": {"anyOf": [ref("Event"), array_of(ref("Event"))]},
        "examples": {
            "one": {"summary": "One event", "value": schemas.EVENT_EXAMPLE},
            "batch": {"summary": "Two, the second a repeat", "value": schemas.BATCH_EXAMPLE},
        },
    }
    answers = _json("Everything accepted is on disk.", ref("PublishAnswer"), {"accepted": 2, "queued": 2})
    content = answers["200"]["content"]["application/json"]
    del content["example"]
    content["examples"] = {
        "plain": {"value": {"accepted": 2, "queued": 2}},
        "receipts": {
            "summary": "With receipts=true",
            "value": {
                "accepted": 2,
                "queued": 2,
                "receipts": [{"status": "stored", "offset": 17}, {"status": "duplicate", "offset": 17}],
            },
        },
        "conflict": {
            "summary": "An id that is known with another payload",
            "value": {"accepted": 1, "queued": 1, "conflicts": [0]},
        },
        "partial": {
            "summary": "With partial=true",
            "value": {
                "accepted": 1,
                "queued": 1,
                "receipts": [
                    {"status": "stored", "offset": 18},
                    {"status": "rejected", "code": "missing_field", "detail": "event_id is required."},
                ],
            },
        },
    }
    answers["200"]["headers"] = {
        "Sekali-Receipt": {
            "description": "For a single event: what became of it.",
            "schema": {"type": "string", "examples": ["stored; offset=17"]},
        }
    }
    publish = _operation(
        "publish",
        "Publish",
        "Publish an event, or an array of events",
        description="All or nothing: one event that breaks a rule refuses the request. Sending the same events again "
        "is always safe.",
        parameters=[
            _query("receipts", "Tell what became of each event. Without it: as `partial` says.", {"type": "boolean"}),
            _query(
                "partial",
                "Store the good events of a batch. The bad ones are told in receipts, unless receipts=false is given.",
                _FLAG,
            ),
        ],
        body=one_or_many,
        answers=answers,
        refusals=(
            *_BODY_ERRORS,
            errors.TooManyTopics,
            errors.OutcomeUnknown,
            errors.DiskFull,
            errors.StoreCorrupt,
        ),
    )
    return {"/publish": {"post": publish}}


def _read_paths() -> dict[str, Any]:
    answers = _json(
        "Events in offset order. A read that fails on the way breaks the connection off.",
        array_of(ref("StoredEvent")),
        [schemas.STORED_EXAMPLE],
        _LINK,
    )
    answers["200"]["content"]["application/x-ndjson"] = {
        "schema": {"type": "string", "description": "One StoredEvent on each line."}
    }
    events = _operation(
        "events",
        "Read",
        "Read events",
        description="Without `limit`: everything up to the log's end as it was when the request arrived, as a stream. "
        "With `limit`: a page; it ends early past 8 MiB, so follow `Link` rather than count.",
        parameters=_events_parameters(),
        answers=answers,
        refusals=(errors.InvalidParameter, errors.StoreCorrupt),
    )
    key = [
        _query("topic", "Exact.", schemas.TOPIC, required=True),
        _query("event_id", "Exact.", schemas.EVENT_ID, required=True),
    ]
    event = _operation(
        "event",
        "Read",
        "Read one event",
        parameters=key,
        answers=_json("The event.", ref("StoredEvent"), schemas.STORED_EXAMPLE),
        refusals=(
            errors.InvalidParameter,
            errors.EventNotFound,
            errors.PayloadGone,
            errors.IndexRebuilding,
            errors.StoreCorrupt,
        ),
    )
    key_example = {"topic": "alpha", "event_id": "e-1"}
    seen = _operation(
        "seen",
        "Read",
        "Ask whether ids are known",
        description="Publishes nothing. The answer is always an array, in the order asked.",
        body={"schema": {"anyOf": [ref("SeenKey"), array_of(ref("SeenKey"))]}, "example": [key_example]},
        answers=_json("One answer for each key.", array_of(ref("SeenAnswer")), [{"seen": True, "offset": 17}]),
        refusals=_BODY_ERRORS,
    )
    return {"/events": {"get": events}, "/event": {"get": event}, "/seen": {"post": seen}, **_ledger_paths()}


def _ledger_paths() -> dict[str, Any]:
    link = {"Link": {**_LINK["Link"], "description": '`<...>; rel="next"` (RFC 8288) while there may be more.'}}
    text = "Refused resends in the order of their arrival."
    answers = _json(text, array_of(ref("LedgerEntry")), schemas.LEDGER_EXAMPLE, link)
    answers["200"]["content"]["application/x-ndjson"] = {
        "schema": {"type": "string", "description": "One LedgerEntry on each line."}
    }
    parameters = [
        _TOPIC_FILTER,
        _query("source", "Who sent it again: exact. Empty: no filter.", {"type": "string"}),
        _query("status", "Only these.", {"type": "string", "enum": ["duplicate", "conflict"]}),
        _query("since", "received_at at or after this time. Write a plus sign as %2B.", _ISO_TIME),
        _query("until", "received_at before this time.", _ISO_TIME),
        _ORDER,
        _query("limit", "Most entries of a page; the largest is SEKALI_PAGE_EVENTS_MAX.", _limit(1_000)),
        _query("after", "Read on from here: the cursor of a Link.", {"type": "string", "examples": ["97-3"]}),
        _query(
            "event_ids",
            "Whether to look up the event_id of each entry. Without them pages are longer and come faster.",
            {"type": "boolean", "default": True},
        ),
        _FORMAT,
    ]
    ledger = _operation(
        "ledger",
        "Read",
        "Read who sent again what",
        description="An entry for each duplicate and conflict. A page may end before `limit`, even empty, since only "
        "so much is looked through for one: follow `Link` rather than count.",
        parameters=parameters,
        answers=answers,
        refusals=(errors.InvalidParameter, errors.StoreCorrupt),
    )
    return {"/ledger": {"get": ledger}}


_TOPIC_FILTER: Final = _query(
    "topic", "Exact; may repeat. Empty: no filter.", array_of({"type": "string"}), explode=True
)
_ORDER: Final = _query(
    "order", "Oldest or newest first.", {"type": "string", "enum": ["asc", "desc"], "default": "asc"}
)
_FORMAT: Final = _query(
    "format",
    "An array, or an object on each line. `Accept: application/x-ndjson` says the latter too.",
    {"type": "string", "enum": ["json", "ndjson"], "default": "json"},
)


def _events_parameters() -> list[Schema]:
    return [
        _TOPIC_FILTER,
        _query("source", "Exact. Empty: no filter.", {"type": "string"}),
        _query("after", "Read on behind this cursor (an offset), exclusive.", _CURSOR),
        _query("before", "With order=desc: read on ahead of this cursor, exclusive.", _CURSOR),
        _query("since", "received_at at or after this time. Write a plus sign as %2B.", _ISO_TIME),
        _query("until", "received_at before this time.", _ISO_TIME),
        _ORDER,
        _query("limit", "Most events of a page; the largest is SEKALI_PAGE_EVENTS_MAX.", _limit(None)),
        _FORMAT,
    ]


def _observe_paths() -> dict[str, Any]:
    health = {"ok": True}
    progress = {"ok": True, "index": {"done": 4800, "total": 4800}}
    topics = _operation(
        "topics",
        "Observe",
        "List topics with their figures",
        parameters=[
            _query("after", "Read on behind this name, exclusive.", schemas.TOPIC),
            _query("limit", "Most topics of a page.", _limit(1_000)),
        ],
        answers=_json("Topics by name, in byte order.", array_of(ref("Topic")), [schemas.TOPIC_EXAMPLE], _LINK),
        refusals=(errors.InvalidParameter,),
    )
    return {
        "/stats": {
            "get": _operation(
                "stats",
                "Observe",
                "Read the counters",
                description="Costs the same at any size of the store.",
                answers=_json("Counters and state.", ref("Stats"), schemas.STATS_EXAMPLE),
                refusals=(errors.InvalidParameter,),
            )
        },
        "/topics": {"get": topics},
        "/healthz": {
            "get": _operation("healthz", "Observe", "Check the connection", answers=_json("Up.", ref("Health"), health))
        },
        "/livez": {
            "get": _operation("livez", "Observe", "Check the process", answers=_json("Up.", ref("Health"), health))
        },
        "/readyz": {
            "get": _operation(
                "readyz",
                "Observe",
                "Ask whether a publish would be taken",
                answers=_json("It would.", ref("Readiness"), progress),
                refusals=(errors.NotReady,),
            )
        },
    }


def _page_paths() -> dict[str, Any]:
    listed = _html("Every code, what it means and what to do.")
    listed["200"]["content"]["application/json"] = {
        "schema": array_of(ref("Explanation")),
        "example": [explained(errors.DiskFull)],
    }
    one = _html("What the code means and what to do.")
    one["200"]["content"]["application/json"] = {"schema": ref("Explanation"), "example": explained(errors.DiskFull)}
    code = {"name": "code", "in": "path", "required": True, "schema": {"type": "string"}, "example": "disk_full"}
    description = {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {"schema": {}}}}}
    return {
        "/": {"get": _operation("home", "Pages", "State, examples, links", answers=_html("A page."))},
        "/docs": {"get": _operation("docs", "Pages", "Try the interface", answers=_html("Swagger UI."))},
        PATH: {"get": _operation("openapi", "Pages", "This description", answers=description)},
        "/errors": {"get": _operation("errors", "Pages", "List every error code", answers=listed)},
        "/errors/{code}": {
            "get": _operation(
                "error",
                "Pages",
                "Explain an error code",
                parameters=[code],
                answers=one,
                refusals=(errors.RouteNotFound,),
            )
        },
    }
