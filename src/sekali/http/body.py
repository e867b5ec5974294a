"""Reading a request's body: bounded in size, in time, and in memory over all requests.

Bytes are reserved as they arrive, not as they are announced, and stay reserved until the request is answered, since
the decoded events refer to them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Final

from starlette.types import Message, Receive

from sekali.errors import BodyTooLarge, BodyTooSlow, Overloaded
from sekali.http.deadlines import Cut, Deadlines
from sekali.hub import Hub
from sekali.settings import Settings

RETRY_AFTER_S: Final = 1


class ClientGone(Exception):
    """The client closed the connection before its body was complete. Nothing is stored, nobody is there to answer."""


class BodyBudget:
    """Bytes of all bodies in flight, over all event loops."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._reserved_bytes = 0

    @property
    def reserved_bytes(self) -> int:
        return self._reserved_bytes

    def take(self, size: int, held: int) -> None:
        """Reserve `size` more bytes for a request that holds `held` already. Raises Overloaded. The only body in flight
        may grow past the bound: a body of legal size is always taken when nothing else is there."""
        with self._lock:
            reserved = self._reserved_bytes + size
            if reserved > self._bytes_max and self._reserved_bytes > held:
                raise Overloaded(
                    "The bodies of other requests fill the memory set aside for them. "
                    "Wait as Retry-After says, then send the same request again.",
                    retry_after_s=RETRY_AFTER_S,
                )
            self._reserved_bytes = reserved

    def give_back(self, size: int) -> None:
        with self._lock:
            self._reserved_bytes -= size


class IncomingBody:
    """The body of one request. `release` must follow, however the request ends."""

    __slots__ = ("_budget", "_deadlines", "_hub", "_receive", "_reserved_bytes", "_settings", "is_complete")

    def __init__(self, receive: Receive, hub: Hub, budget: BodyBudget, deadlines: Deadlines) -> None:
        self._receive = receive
        self._hub = hub
        self._settings: Settings = hub.settings
        self._budget = budget
        self._deadlines = deadlines
        self._reserved_bytes = 0
        self.is_complete = False
        """The client has nothing more to send."""

    async def read(self, content_length: int | None) -> bytes:
        """The whole body. Raises BodyTooLarge, BodyTooSlow, Overloaded, Draining, ClientGone."""
        if content_length is not None and content_length > self._settings.body_bytes_max:
            raise too_large(self._settings)
        started_s = time.monotonic()
        watched = self._deadlines.enter(started_s + self._settings.body_deadline_s, cut_when_draining=True)
        try:
            buffer = bytearray()
            while True:
                chunk, is_last = self._take(await self._receive())
                if is_last and not buffer:
                    return chunk
                buffer += chunk
                if is_last:
                    return bytes(buffer)
                watched.cut_at_s = self._cut_at_s(started_s, len(buffer))
        except asyncio.CancelledError:
            if not watched.was_cut():
                raise
            if watched.cut is Cut.DRAINING:
                raise self._hub.refusal() from None
            raise too_slow(self._settings) from None
        finally:
            self._deadlines.leave(watched)

    async def drop_rest(self, seconds: float) -> None:
        """Read what is still to come and forget it, for so long at most."""
        watched = self._deadlines.enter(time.monotonic() + seconds)
        try:
            while not self.is_complete:
                message = await self._receive()
                self.is_complete = message["type"] != "http.request" or not message.get("more_body", False)
        except asyncio.CancelledError:
            if not watched.was_cut():
                raise
        finally:
            self._deadlines.leave(watched)

    def release(self) -> None:
        if self._reserved_bytes:
            self._budget.give_back(self._reserved_bytes)
            self._reserved_bytes = 0

    def _take(self, message: Message) -> tuple[bytes, bool]:
        """Account for what arrived: the bytes, and whether they were the last."""
        if message["type"] != "http.request":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        self.is_complete = not message.get("more_body", False)
        size = len(chunk)
        if size:
            if self._reserved_bytes + size > self._settings.body_bytes_max:
                raise too_large(self._settings)
            self._budget.take(size, self._reserved_bytes)
            self._reserved_bytes += size
        return chunk, self.is_complete

    def _cut_at_s(self, started_s: float, arrived_bytes: int) -> float:
        return started_s + self._settings.body_deadline_s + arrived_bytes / self._settings.body_rate_bytes_s_min


def too_large(settings: Settings) -> BodyTooLarge:
    return BodyTooLarge(f"A body may have {settings.body_bytes_max} bytes. Send the items in several requests.")


def too_slow(settings: Settings) -> BodyTooSlow:
    return BodyTooSlow(
        f"A body has {settings.body_deadline_s:g} s to arrive, and another second for each "
        f"{settings.body_rate_bytes_s_min} bytes of it."
    )
