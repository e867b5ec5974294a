"""The duplicate ledger over HTTP: who sent again what, page by page.

A cursor names the entry to read on from: `commit-place`. Opaque to clients, and good for either order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from sekali.event import SOURCE_BYTES_MAX, TOPIC_BYTES_MAX, LedgerPlace, LedgerQuery
from sekali.http.lifecycle import hub_of
from sekali.http.params import OFFSET_MAX, ParameterCode, Parameters, link_to_next, prefers_ndjson
from sekali.http.problems import RawResponse, answer_headers
from sekali.http.read import NDJSON_MEDIA_TYPE, VARY
from sekali.wire.native import encode_ledger, ndjson_line

LEDGER_PAGE_DEFAULT: Final = 1_000

_CURSOR: Final = re.compile(r"([1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")
_STATUSES: Final = ("duplicate", "conflict")
_SINGLE: Final = ("source", "status", "since", "until", "order", "limit", "after", "event_ids", "format")

router = APIRouter()


@dataclass(frozen=True, slots=True)
class LedgerRequest:
    """What GET /ledger is asked for. `kept` are the parameters that the next page repeats, as sent."""

    query: LedgerQuery
    is_ndjson: bool
    kept: tuple[tuple[str, str], ...]


@router.api_route("/ledger", methods=["GET", "HEAD"], name="ledger")
async def ledger(request: Request) -> Response:
    """A page of refused resends. It may end early, and then links on as well: the work for one is bounded."""
    hub = await hub_of(request.app)
    wanted = parse_ledger_request(request.scope["query_string"], request.headers, hub.settings.page_events_max)

    def read() -> tuple[bytes, LedgerPlace | None]:
        page = hub.ledger(wanted.query)
        encoded = encode_ledger(page.entries)
        body = b"".join(map(ndjson_line, encoded)) if wanted.is_ndjson else b"[" + b",\n".join(encoded) + b"]"
        return body, page.following

    body, following = await run_in_threadpool(read)
    media_type = NDJSON_MEDIA_TYPE.decode() if wanted.is_ndjson else "application/json"
    headers = [*answer_headers(media_type, body), VARY]
    if following is not None:
        cursor = f"{following.commit_no}-{following.place}"
        headers.append((b"link", link_to_next(request.url.path, [*wanted.kept, ("after", cursor)])))
    return RawResponse(200, headers, body)


def parse_ledger_request(query_string: bytes, headers: Mapping[str, str], limit_max: int) -> LedgerRequest:
    """Raises InvalidParameter naming everything that is wrong."""
    parameters = Parameters(query_string, repeatable=("topic",), single=_SINGLE)
    status = parameters.choice("status", _STATUSES)
    query = LedgerQuery(
        topics=parameters.names("topic", TOPIC_BYTES_MAX),
        source=parameters.name("source", SOURCE_BYTES_MAX),
        is_conflict=None if status is None else status == "conflict",
        since_us=parameters.instant_us("since"),
        until_us=parameters.instant_us("until"),
        descending=parameters.choice("order", ("asc", "desc")) == "desc",
        start=_place(parameters),
        limit=parameters.number("limit", 1, limit_max) or min(LEDGER_PAGE_DEFAULT, limit_max),
        with_event_ids=parameters.flag("event_ids") is not False,
    )
    wanted = parameters.choice("format", ("json", "ndjson"))
    parameters.check()
    kept = [("topic", topic) for topic in query.topics]
    kept += [(name, text) for name in _SINGLE if name != "after" and (text := parameters.given(name))]
    is_ndjson = prefers_ndjson(headers.get("accept", "")) if wanted is None else wanted == "ndjson"
    return LedgerRequest(query, is_ndjson, tuple(kept))


def _place(parameters: Parameters) -> LedgerPlace | None:
    text = parameters.given("after")
    if text is None:
        return None
    found = _CURSOR.fullmatch(text)
    if found and max(int(found[1]), int(found[2])) <= OFFSET_MAX:
        return LedgerPlace(int(found[1]), int(found[2]))
    detail = "after must be a cursor that the server gave out: what a Link header says."
    parameters.note("after", ParameterCode.NOT_A_CURSOR, detail)
    return None
