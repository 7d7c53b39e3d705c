-- What receivers were told of findings: the outbox and its history in one.
--
-- A row is a step: read (all that a teller told up to seq is queued or needs no word),
-- queued, sent, failed (it is tried again), skipped (nobody has to be told any more; error
-- says why). What is queued and neither sent nor skipped is still to be sent, whatever
-- happened to the process that queued it.
CREATE TABLE IF NOT EXISTS notifications
(
    at              DateTime64(6, 'UTC') CODEC(Delta, Default),
    step            LowCardinality(String),
    notification_id UUID, -- of receiver, finding, version and what: the same when it is queued again
    receiver        LowCardinality(String),
    what            LowCardinality(String), -- firing, worse, acknowledged, resolved, test
    finding_id      UUID,
    version         UInt32,
    tenant          LowCardinality(String),
    rule            LowCardinality(String),
    detector        LowCardinality(String),
    severity        LowCardinality(String),
    server          LowCardinality(String),
    teller          LowCardinality(String), -- of read
    seq             UInt64,                 -- of read
    attempt         UInt32,                 -- of sent and failed, from 1
    status          UInt16,                 -- HTTP status of the receiver's answer; 0 for none
    error           String,                 -- our own words: never a URL, never what the receiver wrote

    INDEX by_finding finding_id TYPE bloom_filter(0.01) GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (receiver, at, notification_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Whether a finding was found in what was stored before there was a runner: it is worth
-- a record, and nobody is told of it.
ALTER TABLE findings ADD COLUMN IF NOT EXISTS history Bool DEFAULT false;
