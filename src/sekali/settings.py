"""All settings: a name, a default, a unit. Read from the environment when the store is opened, never at import."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import AliasChoices, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024
DAY_S = 24 * 3600

PREFIX: Final = "SEKALI_"
OF_OTHER_PROGRAMS: Final = ("SEKALI_URL", "SEKALI_OFFLINE", "SEKALI_TEST_")
"""Names, and beginnings of names, that begin alike and are no settings: the client's, the checks', the tests'."""


class Settings(BaseSettings):
    """Every limit of the server. `DB_PATH` and `CONSUMER_WORKERS` by those names, the rest as `SEKALI_<NAME>`.

    Raises pydantic.ValidationError naming the variable when a value is out of range.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        populate_by_name=True,
        extra="ignore",
        env_ignore_empty=True,
    )

    db_path: str = Field(
        default="./data/store.db",
        min_length=1,
        validation_alias=AliasChoices("DB_PATH", "DEDUP_DB_PATH"),
        description="The store's SQLite file. Folders are made. Beside it lies what can be rebuilt: the seen index.",
    )
    consumer_workers: int = Field(
        default=2,
        ge=1,
        le=64,
        validation_alias=AliasChoices("CONSUMER_WORKERS"),
        description="Threads that prepare groups of events: one for single publishes until thousands wait. Commits are "
        "made one at a time whatever the number.",
    )

    body_bytes_max: int = Field(default=32 * MIB, ge=1024, description="Largest request body, bytes.")
    batch_events_max: int = Field(default=50_000, ge=1, description="Most events in one request.")
    event_bytes_max: int = Field(default=1 * MIB, ge=1024, description="Largest single event as sent, bytes.")
    depth_max: int = Field(default=128, ge=2, le=512, description="Deepest nesting of an event; the event itself is 1.")
    topics_max: int = Field(default=100_000, ge=1, description="Most topics one store may hold.")
    intake_events_max: int = Field(default=200_000, ge=1, description="Events admitted and not yet answered.")
    intake_bytes_max: int = Field(default=128 * MIB, ge=1024, description="Bytes of bodies admitted and not answered.")
    bodies_bytes_max: int = Field(
        default=256 * MIB, ge=1024, description="Bytes of all bodies in flight, as they arrive."
    )
    body_deadline_s: float = Field(
        default=30.0, gt=0, le=DAY_S, description="Time for a body to arrive, seconds, plus its size / rate."
    )
    body_rate_bytes_s_min: int = Field(
        default=16 * 1024, ge=1, description="Slowest rate a long body may arrive at, bytes/s."
    )
    page_events_max: int = Field(default=10_000, ge=1, description="Largest `limit` of a read.")
    group_events_max: int = Field(
        default=10_000, ge=1, description="A group takes no further request past this many events."
    )
    group_bytes_max: int = Field(
        default=8 * MIB, ge=1024, description="A group takes no further request past these bytes."
    )
    unindexed_events_max: int = Field(default=2_000_000, ge=1000, description="Stored keys not yet in the seen index.")
    index_memtable_bytes: int = Field(
        default=16 * MIB, ge=1 * MIB, description="RocksDB write buffer of the seen index."
    )
    disk_free_bytes_min: int = Field(default=64 * MIB, ge=0, description="Below this free space publishing is 507.")
    disk_free_bytes_resume: int = Field(
        default=128 * MIB, ge=0, description="Publishing resumes above this free space."
    )
    predecessor_wait_s: float = Field(
        default=10.0, ge=0, le=DAY_S, description="How long to wait for another process to let go."
    )
    drain_s: float = Field(
        default=8.0, gt=0, le=DAY_S, description="After SIGTERM, what is open for longer is cut, seconds."
    )

    @property
    def db_file(self) -> Path:
        return Path(self.db_path).expanduser()


def variables() -> list[str]:
    """Every environment variable that is read."""
    names: list[str] = []
    for name, field in Settings.model_fields.items():
        alias = field.validation_alias
        names += map(str, alias.choices) if isinstance(alias, AliasChoices) else [PREFIX + name.upper()]
    return names


def broken_settings(error: ValidationError) -> str:
    """`SEKALI_DRAIN_S: Input should be ...`, one for each. The value itself is not repeated."""
    faults = error.errors(include_url=False, include_input=False)
    named = ((".".join(map(str, fault["loc"])) or "settings", fault["msg"]) for fault in faults)
    return "; ".join(f"{name if name.isupper() else PREFIX + name.upper()}: {message}" for name, message in named)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A line for each variable of `environment` that looks like a setting and is none: a slip, most likely."""
    known = variables()
    lines = []
    for name, value in sorted(environment.items()):
        upper = name.upper()  # as the settings are read
        if not value or not upper.startswith(PREFIX) or upper in known or upper.startswith(OF_OTHER_PROGRAMS):
            continue
        bare = upper.removeprefix(PREFIX)
        like = [bare] if bare in known else difflib.get_close_matches(upper[:100], known, n=1)
        meant = f"did you mean {like[0]}?" if like else "docs/settings.md lists all there are"
        lines.append(f"warning: {name} is not a setting and changes nothing; {meant}")
    return lines
