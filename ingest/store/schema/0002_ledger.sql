-- The ledger: one row for each batch of events and for each thing that was done to
-- a log. ingest/ledger/FORMAT.md says what the hashes are of.

-- Logs. One writer each, which has the key.
CREATE TABLE IF NOT EXISTS logs
(
    log_id String,
    verifier_key String, -- of its first key; later ones are entries of kind 'key'
    started_at DateTime64(6, 'UTC')
)
ENGINE = MergeTree
ORDER BY log_id
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;

-- Entries. The columns from format to detail are ledger.Columns: their RowBinary
-- encoding is hashed, so none of them may ever change its type.
--
-- nodes are those of the log's tree that are complete with this entry, from the
-- leaf upwards: 2 on average. The node (level, index) is at level in the row of
-- batch (index + 1) << level, so a proof reads a row for each of its hashes.
--
-- tags are the first 4 bytes of each event's leaf hash. They prove nothing: they
-- name the event when a batch is not the one that was sealed.
CREATE TABLE IF NOT EXISTS ledger
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
ENGINE = MergeTree
ORDER BY (log_id, batch)
SETTINGS
    -- An entry that is sent again is the same entry; see store.Seal.
    non_replicated_deduplication_window = 1000,
    min_bytes_for_wide_part = 67108864,
    merge_selector_base = 50,
    fsync_after_insert = 1,
    fsync_part_directory = 1;

-- What is left of batches that retention dropped, because a hold keeps it: the
-- proof (ledger.BatchProof) that these events are of their batch. run names the
-- entry of kind 'drop' that it belongs to, so that a run that was interrupted can
-- be told from the one that followed.
CREATE TABLE IF NOT EXISTS kept
(
    log_id LowCardinality(String),
    batch UInt64 CODEC(Delta, Default),
    run UInt64,
    proof String
)
ENGINE = MergeTree
ORDER BY (log_id, batch, run)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;
