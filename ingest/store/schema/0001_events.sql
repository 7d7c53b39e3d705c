-- The record. Columns and their order are event.Columns (schema 1); the ledger
-- hashes their RowBinary encoding, so none of them may ever change its type.
--
-- Sorting: one tenant's hour lies together, and in it each principal's calls in
-- the order of time. A search by principal and time reads a few granules; equal
-- neighbours (session, agent, server) compress to almost nothing.
--
-- Partitions are the months in which rows expire, so that retention drops whole
-- partitions. A batch has rows of one month only: it is one part, and so it is
-- stored whole or not at all.
CREATE TABLE IF NOT EXISTS events
(
    event_id                           UUID CODEC(ZSTD(1)),
    schema                             UInt16 CODEC(ZSTD(1)),
    emitter_id                         LowCardinality(String) CODEC(ZSTD(1)),
    emitter_seq                        UInt64 CODEC(Delta, ZSTD(1)),
    occurred_at                        DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    received_at                        DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    duration_us                        UInt64 CODEC(ZSTD(1)),
    tenant                             LowCardinality(String) CODEC(ZSTD(1)),
    principal                          String CODEC(ZSTD(1)),
    principal_name                     String CODEC(ZSTD(1)),
    principal_kind                     LowCardinality(String) CODEC(ZSTD(1)),
    on_behalf_of                       Array(String) CODEC(ZSTD(1)),
    agent_id                           String CODEC(ZSTD(1)),
    agent_name                         LowCardinality(String) CODEC(ZSTD(1)),
    model                              LowCardinality(String) CODEC(ZSTD(1)),
    client_name                        LowCardinality(String) CODEC(ZSTD(1)),
    client_version                     LowCardinality(String) CODEC(ZSTD(1)),
    auth_method                        LowCardinality(String) CODEC(ZSTD(1)),
    credential_id                      String CODEC(ZSTD(1)),
    server                             LowCardinality(String) CODEC(ZSTD(1)),
    server_version                     LowCardinality(String) CODEC(ZSTD(1)),
    server_instance                    LowCardinality(String) CODEC(ZSTD(1)),
    environment                        LowCardinality(String) CODEC(ZSTD(1)),
    transport                          LowCardinality(String) CODEC(ZSTD(1)),
    protocol_version                   LowCardinality(String) CODEC(ZSTD(1)),
    client_ip                          String CODEC(ZSTD(1)),
    user_agent                         LowCardinality(String) CODEC(ZSTD(1)),
    kind                               LowCardinality(String) CODEC(ZSTD(1)),
    method                             LowCardinality(String) CODEC(ZSTD(1)),
    target                             LowCardinality(String) CODEC(ZSTD(1)),
    definition_digest                  FixedString(16) CODEC(ZSTD(1)),
    hint_read_only                     Bool CODEC(ZSTD(1)),
    hint_destructive                   Bool CODEC(ZSTD(1)),
    hint_idempotent                    Bool CODEC(ZSTD(1)),
    hint_open_world                    Bool CODEC(ZSTD(1)),
    request_id                         String CODEC(ZSTD(1)),
    session_id                         String CODEC(ZSTD(1)),
    conversation_id                    String CODEC(ZSTD(1)),
    task_id                            String CODEC(ZSTD(1)),
    trace_id                           String CODEC(ZSTD(1)),
    span_id                            String CODEC(ZSTD(1)),
    parent_span_id                     String CODEC(ZSTD(1)),
    attempt                            UInt32 CODEC(ZSTD(1)),
    decision                           LowCardinality(String) CODEC(ZSTD(1)),
    decision_reason                    String CODEC(ZSTD(1)),
    policy_id                          LowCardinality(String) CODEC(ZSTD(1)),
    policy_version                     LowCardinality(String) CODEC(ZSTD(1)),
    scopes_required                    Array(LowCardinality(String)) CODEC(ZSTD(1)),
    scopes_granted                     Array(LowCardinality(String)) CODEC(ZSTD(1)),
    outcome                            LowCardinality(String) CODEC(ZSTD(1)),
    error_code                         LowCardinality(String) CODEC(ZSTD(1)),
    error_message                      String CODEC(ZSTD(1)),
    http_status                        UInt16 CODEC(ZSTD(1)),
    request_bytes                      UInt64 CODEC(ZSTD(1)),
    response_bytes                     UInt64 CODEC(ZSTD(1)),
    arguments                          String CODEC(ZSTD(1)),
    truncated                          Bool CODEC(ZSTD(1)),
    original_bytes                     UInt64 CODEC(ZSTD(1)),
    arguments_digest                   FixedString(16) CODEC(ZSTD(1)),
    result_digest                      FixedString(16) CODEC(ZSTD(1)),
    arguments_shape                    FixedString(16) CODEC(ZSTD(1)),
    signals                            Array(LowCardinality(String)) CODEC(ZSTD(1)),
    `argument_marks.hash`              Array(UInt64) CODEC(ZSTD(1)),
    `argument_marks.class`             Array(LowCardinality(String)) CODEC(ZSTD(1)),
    `result_marks.hash`                Array(UInt64) CODEC(ZSTD(1)),
    `result_marks.class`               Array(LowCardinality(String)) CODEC(ZSTD(1)),
    `result_marks.near_instruction`    Array(Bool) CODEC(ZSTD(1)),
    redaction_profile                  LowCardinality(String) CODEC(ZSTD(1)),
    redaction_profile_version          LowCardinality(String) CODEC(ZSTD(1)),
    redaction_error                    LowCardinality(String) CODEC(ZSTD(1)),
    `removed.path`                     Array(LowCardinality(String)) CODEC(ZSTD(1)),
    `removed.class`                    Array(LowCardinality(String)) CODEC(ZSTD(1)),
    removed_count                      UInt32 CODEC(ZSTD(1)),
    log_id                             LowCardinality(String) CODEC(ZSTD(1)),
    batch                              UInt64 CODEC(Delta, ZSTD(1)),
    leaf                               UInt32 CODEC(Delta, ZSTD(1)),
    expires_month                      Date CODEC(ZSTD(1)),
    labels                             Map(LowCardinality(String), String) CODEC(ZSTD(1)),

    INDEX by_event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_batch batch TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY expires_month
ORDER BY (tenant, toStartOfHour(occurred_at), principal, occurred_at, event_id)
SETTINGS
    -- A batch that is sent again is the same batch; see store.Append.
    non_replicated_deduplication_window = 1000,
    -- The acknowledgement leaves after this insert: it must survive power loss.
    fsync_after_insert = 1,
    fsync_part_directory = 1;

-- Which log a service instance writes. One writer a log; see store.Log.
CREATE TABLE IF NOT EXISTS logs
(
    name String,
    log_id String,
    started_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY name
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;
