-- API keys: who may come in with what, and never the key itself.
--
-- A key's first row (made) says everything about it; later rows only take away:
-- revoked, or rotated, which lets it expire earlier. So it does not matter in which
-- order rows of several instances arrive: a key is good until the earliest
-- expires_at of its rows. Rows are few and read whole.
CREATE TABLE IF NOT EXISTS api_keys
(
    key_id      String, -- the public part
    change      LowCardinality(String), -- made, rotated, revoked
    changed_at  DateTime64(6, 'UTC'),
    changed_by  String, -- id of an identity; bootstrap for one that was made beside the service
    expires_at  DateTime64(6, 'UTC'),
    successor   String, -- of rotated: the key in its place
    note        String, -- of revoked: why

    -- Of made alone.
    hash        FixedString(32), -- SHA-256 of the secret part, 256 random bits
    name        String,
    roles       Array(LowCardinality(String)),
    tenant      String,
    servers     Array(String),
    emitters    Array(String),
    content     LowCardinality(String)
)
ENGINE = MergeTree
ORDER BY (key_id, changed_at)
SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1;
