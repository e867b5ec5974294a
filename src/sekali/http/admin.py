"""What the server tells about itself: statistics, topics, health."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from sekali.errors import NotReady, Violation
from sekali.event import TOPIC_BYTES_MAX, TopicFigures
from sekali.http.lifecycle import hub_of
from sekali.http.params import Parameters, link_to_next
from sekali.http.problems import json_response, problem_response
from sekali.wire.native import format_time_us

TOPICS_PAGE_DEFAULT: Final = 1_000
NOT_READY_RETRY_AFTER_S: Final = 2

_OK: Final = b'{"ok":true}'

router = APIRouter()


@router.api_route("/stats", methods=["GET", "HEAD"], name="stats")
async def stats(request: Request) -> Response:
    Parameters(request.scope["query_string"]).check()
    hub = await hub_of(request.app)
    return json_response(msgspec.json.encode(await run_in_threadpool(hub.stats)))


@router.api_route("/topics", methods=["GET", "HEAD"], name="topics")
async def topics(request: Request) -> Response:
    """A page of topics by name. As with events, it links to the next exactly if there is more."""
    hub = await hub_of(request.app)
    parameters = Parameters(request.scope["query_string"], single=("after", "limit"))
    after = parameters.name("after", TOPIC_BYTES_MAX) or ""
    limit = parameters.number("limit", 1, hub.settings.page_events_max) or TOPICS_PAGE_DEFAULT
    parameters.check()
    figures = await run_in_threadpool(hub.topics, after, limit + 1)
    page = figures[:limit]
    headers: list[tuple[bytes, bytes]] = []
    if len(figures) > limit:
        cursor = [("limit", str(limit)), ("after", page[-1].name)]
        headers.append((b"link", link_to_next(request.url.path, cursor)))
    return json_response(msgspec.json.encode([_shown(topic) for topic in page]), headers)


def _shown(topic: TopicFigures) -> dict[str, Any]:
    """First and last are null for a topic that has no event, only ids."""
    has_events = topic.last_offset > 0
    return {
        "topic": topic.name,
        "events": topic.events,
        "duplicates": topic.duplicates,
        "conflicts": topic.conflicts,
        "first_offset": topic.first_offset if has_events else None,
        "last_offset": topic.last_offset if has_events else None,
        "first_received_at": format_time_us(topic.first_at_us) if has_events else None,
        "last_received_at": format_time_us(topic.last_at_us) if has_events else None,
    }


@router.api_route("/healthz", methods=["GET", "HEAD"], name="healthz")
async def healthz() -> Response:
    """The connection to the server works. Takes any query: probes add some."""
    return json_response(_OK)


@router.api_route("/livez", methods=["GET", "HEAD"], name="livez")
async def livez() -> Response:
    """The process lives and its event loop turns."""
    return json_response(_OK)


@router.api_route("/readyz", methods=["GET", "HEAD"], name="readyz")
async def readyz(request: Request) -> Response:
    """Whether a publish sent now would be taken; and, though it would be, what was found damaged."""
    hub = await hub_of(request.app)
    readiness = await run_in_threadpool(hub.readiness)
    progress: dict[str, Any] = {"index": {"done": readiness.index_done, "total": readiness.index_total}}
    if readiness.damage is not None:
        progress["damage"] = readiness.damage
    if readiness.ready:
        return json_response(msgspec.json.encode({"ok": True, **progress}))
    reasons = [Violation("", NotReady.code, reason) for reason in readiness.reasons]
    detail = f"Not ready: {'; '.join(readiness.reasons)}."
    error = NotReady(detail, violations=reasons, retry_after_s=NOT_READY_RETRY_AFTER_S)
    return problem_response(error, extra=progress)
