-- The record. Columns and their order are event.Columns (schema 1); the ledger
-- hashes their RowBinary encoding, so none of them may ever change its type.
--
-- Sorting: one tenant together, in the order of time. The newest events are read
-- from the end without sorting, a time range is a few granules, and what comes in
-- is almost sorted, so parts of successive batches hardly overlap and merges copy.
--
-- Measured on 100 million events of 90 days, one part, 2 cores (bench search):
--   newest 100 of a tenant, read from the end          35 ms    sorted instead  2 s
--   the same, sorted by more than the time             160 ms   LIMIT … WITH TIES  1 s
--   one principal, last 24 h, by the time range alone  70 ms    so no index or projection for it
--   a trace, with by_trace (2 MB)                      60 ms    without  1.3 s
--   a session, with by_session (4 MB)                  90 ms    without  2.4 s
-- A rare value over all time is a scan: 5 s.
--
-- Partitions are the months in which rows expire, so that retention drops whole
-- partitions. A batch has rows of one month only: it is one part, and so it is
-- stored whole or not at all.
CREATE TABLE IF NOT EXISTS events
(
    event_id                           UUID,
    schema                             UInt16,
    emitter_id                         LowCardinality(String),
    emitter_seq                        UInt64 CODEC(Delta, Default),
    occurred_at                        DateTime64(6, 'UTC') CODEC(Delta, Default),
    received_at                        DateTime64(6, 'UTC') CODEC(Delta, Default),
    duration_us                        UInt64,
    tenant                             LowCardinality(String),
    principal                          String,
    principal_name                     String,
    principal_kind                     LowCardinality(String),
    on_behalf_of                       Array(String),
    agent_id                           String,
    agent_name                         LowCardinality(String),
    model                              LowCardinality(String),
    client_name                        LowCardinality(String),
    client_version                     LowCardinality(String),
    auth_method                        LowCardinality(String),
    credential_id                      String,
    server                             LowCardinality(String),
    server_version                     LowCardinality(String),
    server_instance                    LowCardinality(String),
    environment                        LowCardinality(String),
    transport                          LowCardinality(String),
    protocol_version                   LowCardinality(String),
    client_ip                          String,
    user_agent                         LowCardinality(String),
    kind                               LowCardinality(String),
    method                             LowCardinality(String),
    target                             LowCardinality(String),
    definition_digest                  FixedString(16),
    hint_read_only                     Bool,
    hint_destructive                   Bool,
    hint_idempotent                    Bool,
    hint_open_world                    Bool,
    request_id                         String,
    session_id                         String,
    conversation_id                    String,
    task_id                            String,
    trace_id                           String,
    span_id                            String,
    parent_span_id                     String,
    attempt                            UInt32,
    decision                           LowCardinality(String),
    decision_reason                    String,
    policy_id                          LowCardinality(String),
    policy_version                     LowCardinality(String),
    scopes_required                    Array(LowCardinality(String)),
    scopes_granted                     Array(LowCardinality(String)),
    outcome                            LowCardinality(String),
    error_code                         LowCardinality(String),
    error_message                      String,
    http_status                        UInt16,
    request_bytes                      UInt64,
    response_bytes                     UInt64,
    arguments                          String,
    truncated                          Bool,
    original_bytes                     UInt64,
    arguments_digest                   FixedString(16),
    result_digest                      FixedString(16),
    arguments_shape                    FixedString(16),
    signals                            Array(LowCardinality(String)),
    `argument_marks.hash`              Array(UInt64),
    `argument_marks.class`             Array(LowCardinality(String)),
    `result_marks.hash`                Array(UInt64),
    `result_marks.class`               Array(LowCardinality(String)),
    `result_marks.near_instruction`    Array(Bool),
    redaction_profile                  LowCardinality(String),
    redaction_profile_version          LowCardinality(String),
    redaction_error                    LowCardinality(String),
    `removed.path`                     Array(LowCardinality(String)),
    `removed.class`                    Array(LowCardinality(String)),
    removed_count                      UInt32,
    log_id                             LowCardinality(String),
    batch                              UInt64 CODEC(Delta, Default),
    leaf                               UInt32 CODEC(Delta, Default),
    expires_month                      Date,
    labels                             Map(LowCardinality(String), String),
    -- Not hashed: what only the log's writer can make of a batch, the same in all its
    -- rows. A batch that is found unsealed after a crash is the writer's own or it is
    -- not sealed; see ingest.ownLog.
    batch_mac                          FixedString(16),

    INDEX by_event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_batch batch TYPE minmax GRANULARITY 1,
    -- The names themselves, not a bloom filter: a thousand are asked for at once.
    INDEX by_emitter emitter_id TYPE set(256) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY expires_month
ORDER BY (tenant, occurred_at, event_id)
SETTINGS
    -- A batch that is sent again is the same batch; see store.Append.
    non_replicated_deduplication_window = 1000,
    -- A batch is a dozen files, not hundreds; merges make wide parts.
    min_bytes_for_wide_part = 67108864,
    -- Fewer, larger merges: small parts are cheap to read, merging them is not.
    merge_selector_base = 50,
    -- The acknowledgement leaves after this insert: it must survive power loss.
    fsync_after_insert = 1,
    fsync_part_directory = 1;
