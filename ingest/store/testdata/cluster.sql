-- from: CREATE TABLE IF NOT EXISTS schema_migrations
CREATE TABLE IF NOT EXISTS `mcp`.schema_migrations ON CLUSTER `audit`
(
    version UInt32,
    name String,
    digest String,
    applied_at DateTime64(6, 'UTC')
)
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY version
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS events
CREATE TABLE IF NOT EXISTS `mcp`.events_local ON CLUSTER `audit`
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
    batch_mac                          FixedString(16),

    INDEX by_event_id event_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_session session_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_trace trace_id TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX by_batch batch TYPE minmax GRANULARITY 1,
    INDEX by_emitter emitter_id TYPE set(256) GRANULARITY 1
)
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/{shard}/{table}', '{replica}')
PARTITION BY expires_month
ORDER BY (tenant, occurred_at, event_id)
SETTINGS
    replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800,
    min_bytes_for_wide_part = 67108864,
    merge_selector_base = 50,
    fsync_after_insert = 1,
fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;
CREATE TABLE IF NOT EXISTS `mcp`.events ON CLUSTER `audit` AS `mcp`.events_local
ENGINE = Distributed('audit', 'mcp', 'events_local', ifNull(toUInt64OrNull(extract(toString(log_id), '([0-9]{1,9})-[0-9a-f]{12}$')), cityHash64(toString(log_id))));

-- from: CREATE TABLE IF NOT EXISTS logs
CREATE TABLE IF NOT EXISTS `mcp`.logs ON CLUSTER `audit`
(
    log_id String,
    verifier_key String, -- of its first key; later ones are entries of kind 'key'
    started_at DateTime64(6, 'UTC')
)
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY log_id
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS ledger
CREATE TABLE IF NOT EXISTS `mcp`.ledger_local ON CLUSTER `audit`
(
    format UInt16,
    kind LowCardinality(String),
    log_id LowCardinality(String),
    batch UInt64 CODEC(Delta, Default),
    sealed_at DateTime64(6, 'UTC') CODEC(Delta, Default),
    schema UInt16,
    events UInt32,
    root FixedString(32),
    expires_month Date,
    detail String,
    nodes Array(FixedString(32)),
    checkpoint String,
    tags String
)
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/{shard}/{table}', '{replica}')
ORDER BY (log_id, batch)
SETTINGS
    replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800,
    min_bytes_for_wide_part = 67108864,
    merge_selector_base = 50,
    fsync_after_insert = 1,
fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;
CREATE TABLE IF NOT EXISTS `mcp`.ledger ON CLUSTER `audit` AS `mcp`.ledger_local
ENGINE = Distributed('audit', 'mcp', 'ledger_local', ifNull(toUInt64OrNull(extract(toString(log_id), '([0-9]{1,9})-[0-9a-f]{12}$')), cityHash64(toString(log_id))));

-- from: CREATE TABLE IF NOT EXISTS kept
CREATE TABLE IF NOT EXISTS `mcp`.kept ON CLUSTER `audit`
(
    log_id LowCardinality(String),
    batch UInt64 CODEC(Delta, Default),
    run UInt64,
    proof String
)
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY (log_id, batch, run)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS findings
CREATE TABLE IF NOT EXISTS `mcp`.findings ON CLUSTER `audit`
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
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY (tenant, started_at, finding_id, version)
SETTINGS
    replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800,
    min_bytes_for_wide_part = 67108864,
    fsync_after_insert = 1,
fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS finding_actions
CREATE TABLE IF NOT EXISTS `mcp`.finding_actions ON CLUSTER `audit`
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
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY (tenant, finding_id, at, action_id)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS cursors
CREATE TABLE IF NOT EXISTS `mcp`.cursors ON CLUSTER `audit`
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
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}', snapshot)
ORDER BY (name, slot)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS detector_state
CREATE TABLE IF NOT EXISTS `mcp`.detector_state ON CLUSTER `audit`
(
    name     LowCardinality(String),
    slot     UInt8,
    chunk    UInt32,
    snapshot UInt64,
    data     String CODEC(ZSTD(1))
)
ENGINE = ReplicatedReplacingMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}', snapshot)
PARTITION BY slot
ORDER BY (name, slot, chunk)
SETTINGS
    min_age_to_force_merge_seconds = 300,
    min_age_to_force_merge_on_partition_only = 1,
    fsync_after_insert = 1,
fsync_part_directory = 1, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: ALTER TABLE findings ADD COLUMN IF NOT EXISTS teller LowCardinality(String) DEFAULT '' FIRST
ALTER TABLE `mcp`.findings ADD COLUMN IF NOT EXISTS teller LowCardinality(String) DEFAULT '' FIRST;

-- from: ALTER TABLE findings ADD INDEX IF NOT EXISTS by_teller (teller, seq) TYPE minmax GRANULARITY 1
ALTER TABLE `mcp`.findings ADD INDEX IF NOT EXISTS by_teller (teller, seq) TYPE minmax GRANULARITY 1;

-- from: ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 10000

-- from: ALTER TABLE logs MODIFY SETTING non_replicated_deduplication_window = 10000

-- from: ALTER TABLE ledger MODIFY SETTING non_replicated_deduplication_window = 10000

-- from: ALTER TABLE kept MODIFY SETTING non_replicated_deduplication_window = 10000

-- from: ALTER TABLE findings MODIFY SETTING non_replicated_deduplication_window = 10000

-- from: ALTER TABLE finding_actions MODIFY SETTING non_replicated_deduplication_window = 10000

-- from: CREATE TABLE IF NOT EXISTS api_keys
CREATE TABLE IF NOT EXISTS `mcp`.api_keys ON CLUSTER `audit`
(
    key_id      String, -- the public part
    change      LowCardinality(String), -- made, rotated, revoked
    changed_at  DateTime64(6, 'UTC'),
    changed_by  String, -- id of an identity; bootstrap for one that was made beside the service
    expires_at  DateTime64(6, 'UTC'),
    successor   String, -- of rotated: the key in its place
    note        String, -- of revoked: why

    hash        FixedString(32), -- SHA-256 of the secret part, 256 random bits
    name        String,
    roles       Array(LowCardinality(String)),
    tenant      String,
    servers     Array(String),
    emitters    Array(String),
    content     LowCardinality(String)
)
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY (key_id, changed_at)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS activity_hourly
CREATE TABLE IF NOT EXISTS `mcp`.activity_hourly ON CLUSTER `audit`
(
    tenant         LowCardinality(String),
    hour           DateTime('UTC'), -- of occurred_at; its last one is in 2105
    server         LowCardinality(String),
    environment    LowCardinality(String),
    kind           LowCardinality(String),
    target         LowCardinality(String),
    principal      String,
    principal_kind LowCardinality(String),
    outcome        LowCardinality(String),
    log_id         LowCardinality(String),
    expires_month  Date,
    last_batch     SimpleAggregateFunction(max, UInt64),
    events         SimpleAggregateFunction(sum, UInt64),
    denied         SimpleAggregateFunction(sum, UInt64), -- by outcome or decision
    request_bytes  SimpleAggregateFunction(sum, UInt64),
    response_bytes SimpleAggregateFunction(sum, UInt64),
    duration_us    SimpleAggregateFunction(sum, UInt64),
    longest_us     SimpleAggregateFunction(max, UInt64),
    durations      AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), UInt64), -- µs
    first_at       SimpleAggregateFunction(min, DateTime64(6, 'UTC')),
    last_at        SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
PARTITION BY expires_month
ORDER BY (tenant, hour, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS tools_hourly
CREATE TABLE IF NOT EXISTS `mcp`.tools_hourly ON CLUSTER `audit`
(
    tenant         LowCardinality(String),
    hour           DateTime('UTC'),
    server         LowCardinality(String),
    environment    LowCardinality(String),
    kind           LowCardinality(String),
    target         LowCardinality(String),
    outcome        LowCardinality(String),
    log_id         LowCardinality(String),
    expires_month  Date,
    last_batch     SimpleAggregateFunction(max, UInt64),
    events         SimpleAggregateFunction(sum, UInt64),
    denied         SimpleAggregateFunction(sum, UInt64),
    request_bytes  SimpleAggregateFunction(sum, UInt64),
    response_bytes SimpleAggregateFunction(sum, UInt64),
    duration_us    SimpleAggregateFunction(sum, UInt64),
    longest_us     SimpleAggregateFunction(max, UInt64),
    durations      AggregateFunction(quantilesBFloat16(0.5, 0.95, 0.99), UInt64), -- µs
    first_at       SimpleAggregateFunction(min, DateTime64(6, 'UTC')),
    last_at        SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
PARTITION BY expires_month
ORDER BY (tenant, hour, server, environment, kind, target, outcome, log_id, expires_month)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS tool_definitions
CREATE TABLE IF NOT EXISTS `mcp`.tool_definitions ON CLUSTER `audit`
(
    tenant            LowCardinality(String),
    server            LowCardinality(String),
    target            LowCardinality(String),
    definition_digest FixedString(16),
    read_only         SimpleAggregateFunction(max, UInt8), -- hinted, once at least
    destructive       SimpleAggregateFunction(max, UInt8),
    idempotent        SimpleAggregateFunction(max, UInt8),
    open_world        SimpleAggregateFunction(max, UInt8),
    listed            SimpleAggregateFunction(max, UInt8), -- seen in a listing, not in calls alone
    signals           SimpleAggregateFunction(groupUniqArrayArray, Array(String)), -- of its text, when it was listed
    first_at          SimpleAggregateFunction(min, DateTime64(6, 'UTC')),
    last_at           SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY (tenant, server, target, definition_digest)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS emitters_hourly
CREATE TABLE IF NOT EXISTS `mcp`.emitters_hourly ON CLUSTER `audit`
(
    tenant        LowCardinality(String),
    emitter_id    LowCardinality(String),
    hour          DateTime('UTC'), -- of received_at
    server        LowCardinality(String),
    log_id        LowCardinality(String),
    expires_month Date,
    last_batch    SimpleAggregateFunction(max, UInt64),
    events        SimpleAggregateFunction(sum, UInt64),
    lowest_seq    SimpleAggregateFunction(min, UInt64),
    highest_seq   SimpleAggregateFunction(max, UInt64),
    delay_us      SimpleAggregateFunction(sum, Int64), -- received_at minus the end of the call: divide by events
    first_at      SimpleAggregateFunction(min, DateTime64(6, 'UTC')), -- received
    last_at       SimpleAggregateFunction(max, DateTime64(6, 'UTC'))
)
ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
PARTITION BY expires_month
ORDER BY (tenant, emitter_id, hour, server, log_id, expires_month)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS activity_ranges
CREATE TABLE IF NOT EXISTS `mcp`.activity_ranges ON CLUSTER `audit`
(
    log_id      LowCardinality(String),
    first_batch UInt64,
    last_batch  UInt64,
    planned_at  DateTime64(6, 'UTC')
)
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY (log_id, last_batch)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: CREATE TABLE IF NOT EXISTS notifications
CREATE TABLE IF NOT EXISTS `mcp`.notifications ON CLUSTER `audit`
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
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/all/{table}', '{shard}-{replica}')
ORDER BY (receiver, at, notification_id)
SETTINGS replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, fsync_after_insert = 1, fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;

-- from: ALTER TABLE findings ADD COLUMN IF NOT EXISTS history Bool DEFAULT false
ALTER TABLE `mcp`.findings ADD COLUMN IF NOT EXISTS history Bool DEFAULT false;

-- from: CREATE TABLE events_retained AS events
CREATE TABLE `mcp`.events_retained_local ON CLUSTER `audit`
AS `mcp`.events_local
ENGINE = ReplicatedMergeTree('/clickhouse/mcpaudit/{database}/{shard}/{table}', '{replica}')
PARTITION BY expires_month
ORDER BY (tenant, occurred_at, event_id)
SETTINGS
    replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800,
    min_bytes_for_wide_part = 67108864,
    merge_selector_base = 50,
    fsync_after_insert = 1,
fsync_part_directory = 1, min_compressed_bytes_to_fsync_after_fetch = 1;
CREATE TABLE `mcp`.events_retained ON CLUSTER `audit` AS `mcp`.events_retained_local
ENGINE = Distributed('audit', 'mcp', 'events_retained_local', ifNull(toUInt64OrNull(extract(toString(log_id), '([0-9]{1,9})-[0-9a-f]{12}$')), cityHash64(toString(log_id))));

-- from: ALTER TABLE events REPLACE PARTITION ID '20270101' FROM events_retained
ALTER TABLE `mcp`.events_local ON CLUSTER `audit` REPLACE PARTITION ID '20270101' FROM `mcp`.events_retained_local;

-- from: ALTER TABLE events DROP PARTITION ID '20270101'
ALTER TABLE `mcp`.events_local ON CLUSTER `audit` DROP PARTITION ID '20270101';

-- from: ALTER TABLE activity_hourly DROP PARTITION ID '20270101'
ALTER TABLE `mcp`.activity_hourly DROP PARTITION ID '20270101';

-- from: DROP TABLE IF EXISTS events_retained SYNC
DROP TABLE IF EXISTS `mcp`.events_retained ON CLUSTER `audit` SYNC;
DROP TABLE IF EXISTS `mcp`.events_retained_local ON CLUSTER `audit` SYNC;

-- from: OPTIMIZE TABLE events FINAL
OPTIMIZE TABLE `mcp`.events_local ON CLUSTER `audit` FINAL;

-- from: ALTER TABLE events ADD COLUMN IF NOT EXISTS later String CODEC(ZSTD(1)) AFTER batch_mac
ALTER TABLE `mcp`.events_local ON CLUSTER `audit` ADD COLUMN IF NOT EXISTS later String CODEC(ZSTD(1)) AFTER batch_mac;
ALTER TABLE `mcp`.events ON CLUSTER `audit` ADD COLUMN IF NOT EXISTS later String CODEC(ZSTD(1)) AFTER batch_mac;

-- from: ALTER TABLE events ADD INDEX IF NOT EXISTS by_later later TYPE minmax GRANULARITY 1
ALTER TABLE `mcp`.events_local ON CLUSTER `audit` ADD INDEX IF NOT EXISTS by_later later TYPE minmax GRANULARITY 1;

-- the parts of all shards
CREATE TABLE IF NOT EXISTS `mcp`.cluster_parts ON CLUSTER `audit`
(
    active UInt8,
    database String,
    table String,
    partition_id String,
    bytes_on_disk UInt64
)
ENGINE = Distributed('audit', 'system', 'parts');

-- before something is decided by what is stored
SYSTEM SYNC REPLICA ON CLUSTER `audit` `mcp`.events_local LIGHTWEIGHT;
SYSTEM SYNC REPLICA ON CLUSTER `audit` `mcp`.findings LIGHTWEIGHT;
