-- What the detectors find, what people make of it, and what the detectors remember.

-- Findings: one row for each version that was told, never changed. The newest
-- version of a finding is what it says now.
--
-- seq counts what was told, from 1, without holes: a reader that keeps the last one
-- it has seen misses nothing. A finding's tenant and started_at never change, so its
-- versions lie side by side, and the newest findings of a tenant are read from the
-- end without sorting:
--   SELECT … WHERE tenant = … ORDER BY tenant DESC, started_at DESC, finding_id DESC, version DESC LIMIT 1 BY finding_id LIMIT 100
CREATE TABLE IF NOT EXISTS findings
(
    seq              UInt64 CODEC(Delta, Default),
    told_at          DateTime64(6, 'UTC') CODEC(Delta, Default), -- by the clock of who told it
    finding_id       UUID,
    version          UInt32,
    worse            Bool, -- somebody who has seen the version before has to look again
    rule             LowCardinality(String),
    detector         LowCardinality(String),
    severity         LowCardinality(String),
    score            Float64,
    reason           String,
    observed         String,
    expected         String,
    `workings.name`  Array(LowCardinality(String)),
    `workings.value` Array(String),
    tenant           LowCardinality(String),
    principal        String,
    agent_id         String,
    session_id       String,
    trace_id         String,
    server           LowCardinality(String),
    target           LowCardinality(String),
    emitter_id       LowCardinality(String),
    started_at       DateTime64(6, 'UTC') CODEC(Delta, Default),
    last_seen_at     DateTime64(6, 'UTC') CODEC(Delta, Default),
    ended_at         DateTime64(6, 'UTC'), -- 1970 while it is open
    opened_at        DateTime64(6, 'UTC') CODEC(Delta, Default),
    events           UInt64,
    event_ids        Array(UUID),
    state            LowCardinality(String),

    INDEX by_finding finding_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_seq seq TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
ORDER BY (tenant, started_at, finding_id, version)
SETTINGS
    -- Rows that are sent again are the same rows; see store.AppendFindings.
    non_replicated_deduplication_window = 1000,
    min_bytes_for_wide_part = 67108864,
    -- On-call is told after this insert: what was said must not be unsaid.
    fsync_after_insert = 1,
    fsync_part_directory = 1;

-- What people do about findings: one row for each step. step is acknowledge, assign,
-- close, reopen or note, of a finding; suppress or end_suppression, of what is
-- declared to be usual. A suppression's columns are empty in other steps; its server
-- and target are empty when it holds for any.
CREATE TABLE IF NOT EXISTS finding_actions
(
    action_id      UUID,
    finding_id     UUID, -- for suppress the one it was made from; zeros for end_suppression
    tenant         LowCardinality(String),
    at             DateTime64(6, 'UTC'),
    `by`           String,
    step           LowCardinality(String),
    assignee       String,
    verdict        LowCardinality(String), -- of close: true_positive, benign or false_positive
    severity       LowCardinality(String), -- of the finding when the step was taken: what is worse was not meant
    note           String,
    suppression_id UUID,
    rule           LowCardinality(String),
    principal      String,
    server         LowCardinality(String),
    target         LowCardinality(String),
    expires_at     DateTime64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY (tenant, finding_id, at, action_id)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

-- How far a reader of the logs has come, together with what it remembered there: one
-- without the other is of no use, so this is the head of a snapshot and is written
-- when all of its parts are. Snapshots go to two slots in turn, so that one is always
-- whole; see store.SaveSnapshot.
--
-- positions has, for each log, the last batch that was read; told is the seq of the
-- last finding that was told by then.
CREATE TABLE IF NOT EXISTS cursors
(
    name       LowCardinality(String),
    slot       UInt8,
    snapshot   UInt64, -- number, ascending
    written_at DateTime64(6, 'UTC'),
    positions  Map(String, UInt64),
    told       UInt64,
    chunks     UInt32,
    size       UInt64,         -- bytes
    digest     FixedString(32) -- SHA-256 of the chunks one after the other
)
ENGINE = ReplacingMergeTree(snapshot)
ORDER BY (name, slot)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- The parts of snapshots, at most 1 MiB each. What a later snapshot of the slot has
-- replaced is merged away after some minutes: no row is ever deleted by hand.
CREATE TABLE IF NOT EXISTS detector_state
(
    name     LowCardinality(String),
    slot     UInt8,
    chunk    UInt32,
    snapshot UInt64,
    data     String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(snapshot)
PARTITION BY slot
ORDER BY (name, slot, chunk)
SETTINGS
    min_age_to_force_merge_seconds = 300,
    min_age_to_force_merge_on_partition_only = 1,
    fsync_after_insert = 1,
    fsync_part_directory = 1;
