"""The Python client of a Sekali server. Imports nothing of the server but its words: events and errors."""

from sekali.client.client import DEFAULT_URL, PAGE_EVENTS, Client, EventFilter, LedgerFilter
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
from sekali.client.retry import ONCE, RetryPolicy

__all__ = [
    "DEFAULT_URL",
    "ONCE",
    "PAGE_EVENTS",
    "Client",
    "EventFilter",
    "EventLine",
    "LedgerEntry",
    "LedgerFilter",
    "LedgerLine",
    "LedgerPage",
    "Page",
    "Published",
    "Receipt",
    "RetryPolicy",
    "Stats",
    "StoredEvent",
    "TopicSummary",
]
