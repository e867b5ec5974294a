"""The synchronous client: every call of the HTTP contract that a sender or a reader needs, with safe retries."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, TypeVar

import httpx2
import msgspec

from sekali.client.problems import error_from_response, error_from_transport
from sekali.client.results import (
    EventLine,
    LedgerEntry,
    LedgerLine,
    LedgerPage,
    Page,
    Published,
    Receipt,
    Stats,
    StoredEvent,
    TopicSummary,
)
from sekali.client.retry import RetryPolicy
from sekali.errors import EventNotFound, UnexpectedAnswer
from sekali.event import SeenAnswer

DEFAULT_URL: Final = "http://127.0.0.1:8080"
PAGE_EVENTS: Final = 1000
"""Of one request. The server ends a page of large events earlier."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to read. `topics` and `source` are exact; `since` and `until` compare store time (ISO 8601)."""

    topics: tuple[str, ...] = ()
    source: str | None = None
    since: str | None = None
    until: str | None = None

    def parameters(self) -> list[tuple[str, str]]:
        named = (("source", self.source), ("since", self.since), ("until", self.until))
        return [("topic", topic) for topic in self.topics] + [(name, text) for name, text in named if text is not None]


EVERYTHING: Final = EventFilter()


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which entries of the ledger to read, as EventFilter. `source` is who sent the event again."""

    topics: tuple[str, ...] = ()
    source: str | None = None
    status: Literal["duplicate", "conflict"] | None = None
    since: str | None = None
    until: str | None = None

    def parameters(self) -> list[tuple[str, str]]:
        where = EventFilter(self.topics, self.source, self.since, self.until).parameters()
        return where if self.status is None else [*where, ("status", self.status)]


WHOLE_LEDGER: Final = LedgerFilter()


class Client:
    """One server, one connection pool; safe to share between threads. Close it, or use it in a `with`.

    Every method raises a SekaliError: the one the server reported (by its code), ServerUnreachable, or
    UnexpectedAnswer. What may pass is tried again first, by `retry`.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        retry: RetryPolicy | None = None,
        timeout_s: float = 60.0,
        user_agent: str = "sekali-client",
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        """`url`: `http://` is assumed when it names no scheme. `timeout_s`: the longest wait for a byte.

        Raises ValueError when `url` is not one.
        """
        self.url = _base_url(url)
        self._retry = retry or RetryPolicy()
        self._http = httpx2.Client(
            base_url=self.url,
            timeout=httpx2.Timeout(timeout_s, connect=min(timeout_s, 10.0)),
            headers={"user-agent": user_agent},
            # A proxy set for the outside world has no business between two programs of one machine.
            trust_env=not _is_loopback(self.url),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def publish(self, events: Iterable[Mapping[str, Any]], *, partial: bool = False) -> Published:
        """Publish events in one request, and return when they are durable.

        All or nothing, unless `partial`: then a bad item is a `rejected` receipt and the others are stored. Each event
        has topic, event_id, timestamp, source and payload. Raises ValueError or TypeError for what JSON cannot hold
        (NaN, say).
        """
        items = [json.dumps(event, allow_nan=False, separators=(",", ":")).encode() for event in events]
        return self.publish_encoded(items, partial=partial)

    def publish_encoded(self, items: Sequence[bytes], *, partial: bool = False) -> Published:
        """As `publish`, for events that are JSON already; each of `items` must be exactly one JSON value."""
        body = b"[" + b",".join(items) + b"]"
        parameters = {"receipts": "true", "partial": "true"} if partial else {"receipts": "true"}
        tries = 0

        def request() -> _PublishAnswer:
            nonlocal tries
            tries += 1
            headers = {"content-type": "application/json"}
            response = self._send("POST", "/publish", params=parameters, content=body, headers=headers)
            return _decode(response, _PublishAnswer)

        answer = self._retry.call(request)
        if len(answer.receipts) != len(items):
            raise UnexpectedAnswer(f"{self.url} sent {len(answer.receipts)} receipts for {len(items)} events")
        return Published(answer.accepted, answer.queued, answer.receipts, answer.conflicts, tries)

    def page(
        self,
        where: EventFilter = EVERYTHING,
        *,
        after: str | None = None,
        before: str | None = None,
        newest_first: bool = False,
        limit: int = PAGE_EVENTS,
    ) -> Page:
        """At most `limit` events behind the cursor `after` (or, newest first, ahead of `before`), both exclusive."""
        parameters = [*where.parameters(), ("limit", str(limit)), ("format", "ndjson")]
        if newest_first:
            parameters.append(("order", "desc"))
        parameters += [(name, text) for name, text in (("after", after), ("before", before)) if text is not None]
        cursor_name = "before" if newest_first else "after"
        start = before if newest_first else after
        return self._retry.call(lambda: self._read_page(parameters, cursor_name, start))

    def pages(self, where: EventFilter = EVERYTHING, *, after: str | None = None) -> Iterator[Page]:
        """Everything behind `after`, in offset order, until a page reaches the end. The last may be empty."""
        while True:
            page = self.page(where, after=after)
            yield page
            if not page.more:
                return
            after = page.cursor

    def events(self, where: EventFilter = EVERYTHING, *, after: str | None = None) -> Iterator[StoredEvent]:
        """Everything behind `after`, event by event. A connection lost on the way is mended: no gap, no repeat."""
        for page in self.pages(where, after=after):
            yield from page.events

    def event(self, topic: str, event_id: str) -> StoredEvent:
        """One event. Raises EventNotFound when it was never seen, PayloadGone when only its id is left."""
        return self._get("/event", StoredEvent, {"topic": topic, "event_id": event_id})

    def has_event(self, topic: str, event_id: str) -> bool:
        """Whether the event can be read back now."""
        try:
            self.event(topic, event_id)
        except EventNotFound:
            return False
        return True

    def seen(self, keys: Iterable[tuple[str, str]]) -> list[SeenAnswer]:
        """For each (topic, event_id) whether it is stored, in order. Publishes nothing."""
        body = json.dumps([{"topic": topic, "event_id": event_id} for topic, event_id in keys]).encode()

        def request() -> list[_SeenItem]:
            headers = {"content-type": "application/json"}
            return _decode(self._send("POST", "/seen", content=body, headers=headers), list[_SeenItem])

        return [SeenAnswer(item.seen, item.offset) for item in self._retry.call(request)]

    def ledger_page(
        self,
        where: LedgerFilter = WHOLE_LEDGER,
        *,
        after: str | None = None,
        newest_first: bool = False,
        limit: int = PAGE_EVENTS,
        event_ids: bool = True,
    ) -> LedgerPage:
        """At most `limit` entries from the cursor `after` on. There may be fewer, or none, with more behind them."""
        parameters = [*where.parameters(), ("limit", str(limit)), ("format", "ndjson")]
        parameters += [("order", "desc")] if newest_first else []
        parameters += [] if event_ids else [("event_ids", "false")]
        parameters += [] if after is None else [("after", after)]
        return self._retry.call(lambda: self._read_ledger_page(parameters))

    def ledger_pages(
        self, where: LedgerFilter = WHOLE_LEDGER, *, newest_first: bool = False, event_ids: bool = True
    ) -> Iterator[LedgerPage]:
        """The ledger to its end. Some pages may be empty."""
        after: str | None = None
        while True:
            page = self.ledger_page(where, after=after, newest_first=newest_first, event_ids=event_ids)
            yield page
            if page.cursor is None:
                return
            after = page.cursor

    def ledger(
        self, where: LedgerFilter = WHOLE_LEDGER, *, newest_first: bool = False, event_ids: bool = True
    ) -> Iterator[LedgerEntry]:
        """Who sent again what, entry by entry, oldest first unless told otherwise."""
        for page in self.ledger_pages(where, newest_first=newest_first, event_ids=event_ids):
            yield from page.entries

    def stats(self) -> Stats:
        return self._get("/stats", Stats)

    def stats_json(self) -> bytes:
        """The answer of /stats as sent, with whatever a newer server adds."""
        return self._retry.call(lambda: self._send("GET", "/stats").content)

    def topics(self) -> Iterator[TopicSummary]:
        """Every topic's figures, by name (in the order of its UTF-8 bytes), read page by page as they are taken."""
        parameters = {"limit": str(PAGE_EVENTS)}
        while True:
            page, after = self._retry.call(lambda: self._read_topics(parameters))
            yield from page
            if after is None:
                return
            parameters["after"] = after

    def check(self) -> None:
        """Return when a Sekali server answers; one try. Raises ServerUnreachable or UnexpectedAnswer."""
        response = self._send("GET", "/healthz")
        if not _decode(response, _Health).ok:
            raise UnexpectedAnswer(f"{self.url} answers, but says it is not healthy")

    def _get(self, path: str, answer_type: type[Answer], parameters: Mapping[str, str] | None = None) -> Answer:
        return self._retry.call(lambda: _decode(self._send("GET", path, params=parameters), answer_type))

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | httpx2.QueryParams | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx2.Response:
        try:
            response = self._http.request(method, path, params=params, content=content, headers=headers)
        except httpx2.TransportError as error:
            raise error_from_transport(error, self.url) from error
        if not response.is_success:
            raise error_from_response(response)
        return response

    def _read_page(self, parameters: list[tuple[str, str]], cursor_name: str, start: str | None) -> Page:
        response = self._send("GET", "/events", params=httpx2.QueryParams(tuple(parameters)))
        read = tuple(EventLine(_decode_json(line, StoredEvent, self.url), line) for line in _lines(response))
        linked = _linked_cursor(response, cursor_name)
        reached = str(read[-1].event.offset) if read else start
        return Page(read, linked or reached, linked is not None)

    def _read_ledger_page(self, parameters: list[tuple[str, str]]) -> LedgerPage:
        response = self._send("GET", "/ledger", params=httpx2.QueryParams(tuple(parameters)))
        read = tuple(LedgerLine(_decode_json(line, LedgerEntry, self.url), line) for line in _lines(response))
        return LedgerPage(read, _linked_cursor(response, "after"))

    def _read_topics(self, parameters: Mapping[str, str]) -> tuple[list[TopicSummary], str | None]:
        response = self._send("GET", "/topics", params=parameters)
        return _decode(response, list[TopicSummary]), _linked_cursor(response, "after")


class _PublishAnswer(msgspec.Struct):
    accepted: int
    queued: int
    receipts: tuple[Receipt, ...]
    conflicts: tuple[int, ...] = ()


class _SeenItem(msgspec.Struct):
    seen: bool
    offset: int = 0


class _Health(msgspec.Struct):
    ok: bool


def _base_url(url: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parsed = httpx2.URL(text)
    except httpx2.InvalidURL as error:
        raise ValueError(f"not a URL: {url}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"not an http or https URL: {url}")
    return text.rstrip("/")


def _is_loopback(url: str) -> bool:
    host = httpx2.URL(url).host
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _decode(response: httpx2.Response, answer_type: type[Answer]) -> Answer:
    return _decode_json(response.content, answer_type, str(response.request.url))


def _decode_json(content: bytes, answer_type: type[Answer], url: str) -> Answer:
    try:
        return msgspec.json.decode(content, type=answer_type)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UnexpectedAnswer(f"{url} answered, but not as Sekali does: is another program on that port?") from error


def _lines(response: httpx2.Response) -> list[bytes]:
    """The lines of NDJSON. Only LF ends one: splitlines() would also cut at U+2028, which a string may hold."""
    return [line for line in response.content.split(b"\n") if line.strip()]


def _linked_cursor(response: httpx2.Response, cursor_name: str) -> str | None:
    """The cursor of `Link: rel="next"`, or None at the end of what was asked for."""
    link = response.links.get("next")
    if link is None or "url" not in link:
        return None
    cursor: str | None = httpx2.URL(link["url"]).params.get(cursor_name)
    return cursor
