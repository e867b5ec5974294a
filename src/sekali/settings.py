"""All settings: a name, a default, a unit. Read from the environment when the store is opened, never at import."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 1024 * 1024


class Settings(BaseSettings):
    """Every limit of the server. `DB_PATH` and `CONSUMER_WORKERS` by those names, the rest as `SEKALI_<NAME>`.

    Raises pydantic.ValidationError naming the variable when a value is out of range.
    """

    model_config = SettingsConfigDict(
        env_prefix="SEKALI_",
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
        description="Threads that prepare groups of events. Commits are made one at a time whatever the number.",
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
        default=30.0, gt=0, description="Time for a body to arrive, seconds, plus its size / rate."
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
    predecessor_wait_s: float = Field(default=10.0, ge=0, description="How long to wait for another process to let go.")
    drain_s: float = Field(default=8.0, gt=0, description="After SIGTERM, what is open for longer is cut, seconds.")

    @property
    def db_file(self) -> Path:
        return Path(self.db_path).expanduser()
