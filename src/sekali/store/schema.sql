-- The store's one SQLite file. Times are microseconds since 1970-01-01 UTC; offsets start at 1.
-- Every row carries `checksum`, the CRC-32 of its other columns (rows.py): a flipped bit is found, not served.

-- One row: what is decided when the store is made, and never changes.
CREATE TABLE store (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    store_id      BLOB    NOT NULL,   -- 16 random bytes; the seen index names the store it belongs to
    digest_key    BLOB    NOT NULL,   -- 32 random bytes; key of the BLAKE2b digests in the seen index
    created_at_us INTEGER NOT NULL,
    checksum      INTEGER NOT NULL
) STRICT;

-- One row: figures of the whole store, updated in the transaction of every commit.
CREATE TABLE totals (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    commit_no     INTEGER NOT NULL,   -- of the last commit
    chain         BLOB    NOT NULL,   -- its chain digest: depends on every commit before it
    last_offset   INTEGER NOT NULL,
    store_time_us INTEGER NOT NULL,   -- never decreases
    duplicates    INTEGER NOT NULL,   -- conflicts included
    conflicts     INTEGER NOT NULL,
    events        INTEGER NOT NULL,
    checksum      INTEGER NOT NULL
) STRICT;

-- One row per topic. The figures are those up to `folded_commit`; later commits add to them in memory.
CREATE TABLE topics (
    topic_id      INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL UNIQUE,
    events        INTEGER NOT NULL,
    duplicates    INTEGER NOT NULL,
    conflicts     INTEGER NOT NULL,
    first_offset  INTEGER NOT NULL,
    last_offset   INTEGER NOT NULL,
    first_at_us   INTEGER NOT NULL,
    last_at_us    INTEGER NOT NULL,
    folded_commit INTEGER NOT NULL,
    checksum      INTEGER NOT NULL
) STRICT;

-- The tail: one row per commit that no run has taken over yet.
CREATE TABLE commits (
    commit_no     INTEGER PRIMARY KEY,
    first_offset  INTEGER NOT NULL,   -- of the first event; of the next commit's when `events` is 0
    events        INTEGER NOT NULL,
    stamp_us      INTEGER NOT NULL,   -- store time of its events: their received_at
    chain         BLOB    NOT NULL,
    checksum      INTEGER NOT NULL,
    topics        BLOB    NOT NULL,   -- six integers per topic of the commit (tail.py)
    block         BLOB                -- the events; NULL when all were duplicates
) STRICT;

-- A run: commits first_commit..last_commit, sorted by (topic, offset) and cut into blocks. It is live once it has its row.
CREATE TABLE runs (
    run_no        INTEGER PRIMARY KEY,
    first_commit  INTEGER NOT NULL,
    last_commit   INTEGER NOT NULL,
    first_offset  INTEGER NOT NULL,
    last_offset   INTEGER NOT NULL,   -- first_offset - 1 when all were duplicates
    first_at_us   INTEGER NOT NULL,
    last_at_us    INTEGER NOT NULL,
    first_block   INTEGER NOT NULL,
    last_block    INTEGER NOT NULL,   -- first_block - 1 when there is none
    chain         BLOB    NOT NULL,   -- of last_commit
    checksum      INTEGER NOT NULL
) STRICT;

CREATE TABLE blocks (
    block_no      INTEGER PRIMARY KEY,
    run_no        INTEGER NOT NULL,
    first_offset  INTEGER NOT NULL,   -- least and greatest offset in the block
    last_offset   INTEGER NOT NULL,
    events        INTEGER NOT NULL,
    checksum      INTEGER NOT NULL,
    topics        BLOB    NOT NULL,   -- per topic of the block: id, events
    block         BLOB    NOT NULL
) STRICT;

-- Which blocks hold a topic's events, so that a rare topic is read without scanning the log.
CREATE TABLE topic_blocks (
    topic_id      INTEGER NOT NULL,
    first_offset  INTEGER NOT NULL,   -- of this topic in this block
    last_offset   INTEGER NOT NULL,
    events        INTEGER NOT NULL,
    events_before INTEGER NOT NULL,   -- of this topic in earlier blocks: a row that is missing is noticed
    block_no      INTEGER NOT NULL,
    checksum      INTEGER NOT NULL,
    PRIMARY KEY (topic_id, first_offset)
) STRICT, WITHOUT ROWID;

-- Commits inside runs that the seen index may still name as its last one after a crash.
CREATE TABLE index_marks (
    commit_no     INTEGER PRIMARY KEY,
    chain         BLOB    NOT NULL,
    last_offset   INTEGER NOT NULL,
    checksum      INTEGER NOT NULL
) STRICT;

-- The duplicate ledger: one row per commit that refused something.
CREATE TABLE ledger (
    commit_no     INTEGER PRIMARY KEY,
    stamp_us      INTEGER NOT NULL,
    entries       INTEGER NOT NULL,
    entries_before INTEGER NOT NULL,  -- of earlier rows: a row that is missing is noticed
    checksum      INTEGER NOT NULL,
    body          BLOB    NOT NULL    -- who sent again what (ledger.py)
) STRICT;
