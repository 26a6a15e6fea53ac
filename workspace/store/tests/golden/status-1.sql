-- One row per event. What listings ask for are columns; the rest is JSON as the document has it.
CREATE TABLE events (
    place          INTEGER PRIMARY KEY,
    id             TEXT NOT NULL UNIQUE,
    tenant         TEXT NOT NULL,
    channel        TEXT NOT NULL,
    created_at     INTEGER NOT NULL, -- this and all times: milliseconds since the Unix epoch
    correlation_id TEXT,
    priority       TEXT,
    payload        TEXT,
    metadata       TEXT,
    ordering_key   TEXT,
    scheduled_at   INTEGER,
    expires_at     INTEGER,
    replay_of      TEXT,
    keep_from      INTEGER NOT NULL,
    step           INTEGER NOT NULL DEFAULT -1, -- -1: only notes are known
    state_at       INTEGER NOT NULL DEFAULT 0,
    status         TEXT NOT NULL DEFAULT '',
    provider       TEXT,
    state          TEXT
) STRICT;
CREATE INDEX events_by_time ON events (created_at, id);
-- The status at the end lets the counts of one tenant be read from the index alone.
CREATE INDEX events_by_tenant ON events (tenant, created_at, id, status);
CREATE INDEX events_by_status ON events (status, created_at, id);
CREATE INDEX events_by_provider ON events (provider, created_at, id) WHERE provider IS NOT NULL;
CREATE INDEX events_by_correlation ON events (correlation_id, created_at, id) WHERE correlation_id IS NOT NULL;
CREATE INDEX events_by_retention ON events (keep_from);

CREATE TABLE steps (
    place  INTEGER NOT NULL,
    step   INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    status TEXT NOT NULL,
    by     TEXT NOT NULL,
    entry  TEXT NOT NULL,
    PRIMARY KEY (place, step)
) STRICT, WITHOUT ROWID;

CREATE TABLE notes (
    place INTEGER NOT NULL,
    id    TEXT NOT NULL,
    note  TEXT NOT NULL,
    PRIMARY KEY (place, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE inbox (
    id        TEXT PRIMARY KEY NOT NULL,
    tenant    TEXT NOT NULL,
    recipient TEXT NOT NULL,
    title     TEXT NOT NULL,
    body      TEXT NOT NULL,
    data      TEXT,
    at        INTEGER NOT NULL
) STRICT;
CREATE INDEX inbox_by_recipient ON inbox (tenant, recipient, at, id);
CREATE INDEX inbox_by_retention ON inbox (at);

-- How far the projector has come in each partition: the next offset to read.
CREATE TABLE progress (
    topic     TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next      INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) STRICT, WITHOUT ROWID;
