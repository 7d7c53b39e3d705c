-- What dashboards read: the events of each hour added up, by the service, from the
-- sealed batches and in their order (package activity). Not a materialized view: a crash
-- between a batch and its view would leave the view short for ever, and every small
-- batch of the acknowledged path would write a second part.
--
-- Rows of one hour come several at a time and are merged: always read them with an
-- aggregate. Like the events they are of, rows expire with their month.
--
-- log_id and last_batch are how the service knows what it has added up already, whatever
-- a crash has done: a part has rows of one range of one log's batches, and says up to
-- which batch. A range that is stored is seen by them, and is not added again.
--
-- durations are rounded to sixteen values an octave, so that a state of many calls is
-- small: a quantile is right to within 3 %.
--
-- Measured with 4 million events of 90 hours, 200 principals, 5 servers and 8 tools, on a
-- busy machine of 2 cores; 100 million in 90 days are 25 times that:
--   activity_hourly has 0.7 million rows, 9 bytes an event; p95 by server  270 ms
--   tools_hourly has 7 thousand rows, 0.5 bytes an event; p95 by server   27 ms
--   the same from it, not rounded 90 to 190 ms; as a t-digest               65 ms
-- and in activity_hourly, not rounded or as a t-digest the same 270 ms, with
-- quantilesDD 1.5 s.

-- Calls, sizes and times. kind says of what: tool_call, resource_read, auth, …
CREATE TABLE IF NOT EXISTS activity_hourly
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
ENGINE = AggregatingMergeTree
PARTITION BY expires_month
ORDER BY (tenant, hour, server, environment, kind, target, principal, principal_kind, outcome, log_id, expires_month)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- The same without principals, for what is asked of all of them together: it has a
-- hundredth of the rows, and what a quantile costs is the number of states that are merged.
CREATE TABLE IF NOT EXISTS tools_hourly
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
ENGINE = AggregatingMergeTree
PARTITION BY expires_month
ORDER BY (tenant, hour, server, environment, kind, target, outcome, log_id, expires_month)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- The definitions that tools have had: what a server said that a tool is and takes. They
-- name no person, and stay. Adding one again changes nothing, so it has no last_batch.
CREATE TABLE IF NOT EXISTS tool_definitions
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
ENGINE = AggregatingMergeTree
ORDER BY (tenant, server, target, definition_digest)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Who emits: what came of an emitter's sequence in each hour. An emitter that relays for
-- several tenants has rows in each, of that tenant's events: the numbers between those
-- are other tenants', so a gap in them is no loss.
CREATE TABLE IF NOT EXISTS emitters_hourly
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
ENGINE = AggregatingMergeTree
PARTITION BY expires_month
ORDER BY (tenant, emitter_id, hour, server, log_id, expires_month)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Which batches are added up: written before they are, so that a run that was killed is
-- done again as it was.
CREATE TABLE IF NOT EXISTS activity_ranges
(
    log_id      LowCardinality(String),
    first_batch UInt64,
    last_batch  UInt64,
    planned_at  DateTime64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY (log_id, last_batch)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1;
