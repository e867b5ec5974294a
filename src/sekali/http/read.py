"""Reading over HTTP: `/events` as a stream or a page, `/event`, and `/seen`.

A read is driven in short steps on worker threads; a client that takes its time costs one piece of memory. What goes
wrong after the first byte breaks the connection off: a stream never ends as if it were whole.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Final

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sekali.errors import SekaliError
from sekali.event import ReadQuery
from sekali.http.body import ClientGone, IncomingBody
from sekali.http.lifecycle import Lifecycle, Serving, hub_of
from sekali.http.params import EventsRequest, Parameters, parse_event_request, parse_events_request
from sekali.http.problems import NO_STORE, NOSNIFF, HeaderList, json_response
from sekali.http.publish import NoAnswer, checked_headers, refusal
from sekali.http.reading import Reading
from sekali.hub import Hub
from sekali.wire.native import decode_seen, encode_events, encode_seen, ndjson_line

PIECE_BYTES_MIN: Final = 128 * 1024
"""A step of a stream ends past this many encoded bytes, or after PIECE_S with whatever there is by then."""
PIECE_S: Final = 0.2
WRITE_BYTES_MAX: Final = 256 * 1024
"""Of one ASGI message, so that a slow client holds back its stream soon."""
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Past this many bytes a page ends early, with a link to the next: pages are built in memory."""

NDJSON_MEDIA_TYPE: Final = b"application/x-ndjson"
VARY: Final = (b"vary", b"accept")

router = APIRouter()


class StreamBroken(Exception):
    """A stream ended before its end. Raised so that the server closes the connection without the last chunk."""


@router.api_route("/events", methods=["GET", "HEAD"], name="events")
async def events(request: Request) -> Response:
    serving = await request.app.lifecycle.serving()
    hub: Hub = serving.hub
    wanted = parse_events_request(request.scope["query_string"], request.headers, hub.settings.page_events_max)
    if wanted.query.limit is None:
        return EventStream(serving, wanted)
    return EventPage(serving, wanted, request.url.path)


@router.api_route("/event", methods=["GET", "HEAD"], name="event")
async def event(request: Request) -> Response:
    topic, event_id = parse_event_request(request.scope["query_string"])
    hub = await hub_of(request.app)
    return json_response(await run_in_threadpool(lambda: encode_events(hub.event(topic, event_id))[0]))


@router.post("/seen", name="seen", response_class=Response)
async def seen(request: Request) -> Response:
    """The body is held to the same rules as a publish: size, time, memory, media type."""
    lifecycle: Lifecycle = request.app.lifecycle
    serving = await lifecycle.serving()
    body = IncomingBody(request.receive, serving.hub, serving.bodies, serving.deadlines)
    try:
        Parameters(request.scope["query_string"]).check()
        content_length = checked_headers(request.scope)
        data = await body.read(content_length)
        return json_response(await run_in_threadpool(_seen_answers, serving, data))
    except ClientGone:
        return NoAnswer()
    except SekaliError as error:
        return refusal(error, body)
    finally:
        body.release()


def _seen_answers(serving: Serving, data: bytes) -> bytes:
    keys, _ = decode_seen(data, serving.decode_limits)
    return encode_seen(serving.hub.seen(keys))


class EventsAnswer(Response):
    """What a stream and a page have in common: the read ends with the client, and with the server's draining."""

    def __init__(self, serving: Serving, wanted: EventsRequest, query: ReadQuery) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self._serving = serving
        self._wanted = wanted
        self._reading = Reading(serving.hub, query)
        media_type = NDJSON_MEDIA_TYPE if wanted.is_ndjson else b"application/json"
        self.raw_headers: HeaderList = [(b"content-type", media_type), NO_STORE, NOSNIFF, VARY]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client_gone = asyncio.ensure_future(_until_disconnect(receive))
        client_gone.add_done_callback(lambda _: self._reading.stop())
        watched = self._serving.deadlines.enter(None)
        try:
            await self._answer(scope, client_gone, send)
        except asyncio.CancelledError:
            if not watched.was_cut():
                raise
            raise StreamBroken("the server is shutting down, and the client was too slow") from None
        finally:
            self._serving.deadlines.leave(watched)
            self._serving.open_reads.leave(self._reading)
            client_gone.cancel()
            self._reading.stop()

    async def _answer(self, scope: Scope, client_gone: asyncio.Future[None], send: Send) -> None:
        raise NotImplementedError


class EventStream(EventsAnswer):
    """Everything up to the log's end as it was at the start, in bounded memory."""

    def __init__(self, serving: Serving, wanted: EventsRequest) -> None:
        super().__init__(serving, wanted, wanted.query)
        self._is_begun = False

    async def _answer(self, scope: Scope, client_gone: asyncio.Future[None], send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        if scope["method"] == "HEAD":
            await send(start)
            await send({"type": "http.response.body", "body": b""})
            return
        # The first piece comes before the first byte: what fails at once is still answered with a problem document.
        piece, is_last = await run_in_threadpool(self._next_piece)
        await send(start)
        while not client_gone.done():
            self._serving.open_reads.wait(self._reading)
            for begin in range(0, len(piece), WRITE_BYTES_MAX):
                body = piece[begin : begin + WRITE_BYTES_MAX]
                await send({"type": "http.response.body", "body": body, "more_body": True})
            self._serving.open_reads.leave(self._reading)
            if is_last:
                await send({"type": "http.response.body", "body": b""})
                return
            piece, is_last = await self._piece_or_break()

    async def _piece_or_break(self) -> tuple[bytes, bool]:
        try:
            return await run_in_threadpool(self._next_piece)
        except Exception as error:
            raise StreamBroken(f"the read failed: {type(error).__name__}") from error

    def _next_piece(self) -> tuple[bytes, bool]:
        """The next bytes of the body, and whether they are the last."""
        parts: list[bytes] = []
        size = 0
        until_s = time.monotonic() + PIECE_S
        while size < PIECE_BYTES_MIN and time.monotonic() < until_s:
            part = self._reading.next_part()
            if part is None:
                is_last = not self._reading.is_stopped
                if is_last and not self._wanted.is_ndjson:
                    parts.append(b"]" if self._is_begun else b"[]")
                return b"".join(parts), is_last
            if not len(part):
                continue
            encoded = encode_events(part)
            if self._wanted.is_ndjson:
                parts.append(_lines(encoded))
            else:
                parts += (b",\n" if self._is_begun else b"[", b",\n".join(encoded))
            self._is_begun = True
            size += len(parts[-1])
        return b"".join(parts), False


class EventPage(EventsAnswer):
    """At most `limit` events. It links to the next page exactly if there is more."""

    def __init__(self, serving: Serving, wanted: EventsRequest, path: str) -> None:
        query = wanted.query
        assert query.limit is not None
        super().__init__(serving, wanted, replace(query, limit=query.limit + 1))
        self._limit = query.limit
        self._path = path

    async def _answer(self, scope: Scope, client_gone: asyncio.Future[None], send: Send) -> None:  # noqa: ARG002
        body, next_after = await run_in_threadpool(self._read_page)
        if client_gone.done():
            return
        headers = [*self.raw_headers, (b"content-length", b"%d" % len(body))]
        if next_after is not None:
            headers.append((b"link", self._wanted.next_link(self._path, next_after)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _read_page(self) -> tuple[bytes, int | None]:
        """The body, and the last offset in it if more follows. One event is read beyond the page to know that."""
        encoded: list[bytes] = []
        size = 0
        last_offset = 0
        next_after: int | None = None
        while next_after is None and (part := self._reading.next_part()) is not None:
            for offset, text in zip(part.offsets, encode_events(part), strict=True):
                if len(encoded) == self._limit or size > PAGE_BYTES_MAX:
                    next_after = last_offset
                    break
                encoded.append(text)
                size += len(text)
                last_offset = offset
        return (_lines(encoded) if self._wanted.is_ndjson else b"[" + b",\n".join(encoded) + b"]"), next_after


def _lines(encoded: list[bytes]) -> bytes:
    """Newline-delimited JSON. Few payloads hold line ends of their own: those go the slow way."""
    if not encoded:
        return b""
    text = b"\n".join(encoded)
    if text.count(b"\n") == len(encoded) - 1 and b"\r" not in text:
        return text + b"\n"
    return b"".join(map(ndjson_line, encoded))


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
