"""Reading the whole ledger of a store, page by page."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sekali.event import LedgerEntry, LedgerQuery
from sekali.store.store import Store


def ledger_pages(store: Store, **query: Any) -> list[list[LedgerEntry]]:
    """The entries of each page, to the end; `query` is what LedgerQuery takes."""
    asked = LedgerQuery(**query)
    pages = []
    while True:
        page = store.ledger(asked)
        pages.append(page.entries)
        if page.following is None:
            return pages
        assert page.following != asked.start, "a page leads to itself"
        asked = replace(asked, start=page.following)


def whole_ledger(store: Store, **query: Any) -> list[LedgerEntry]:
    """Everything that matches."""
    return [entry for page in ledger_pages(store, **query) for entry in page]
