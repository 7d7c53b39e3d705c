-- The accounts of mcpaudit on a ClickHouse server or cluster. Run it once as an
-- administrator:   clickhouse-client --multiquery < users.sql
-- On a single server take out every ON CLUSTER audit, and the lines that say "cluster".
-- Change the passwords, or better: IDENTIFIED WITH ssl_certificate CN 'mcpaudit-writer'.

CREATE DATABASE IF NOT EXISTS mcpaudit ON CLUSTER audit;

-- The schema: makes and changes tables, and can neither read an event nor change one. A new
-- mcpaudit may bring a new schema: the first start of it runs as this account together with
-- the writer's rights (GRANT mcpaudit_schema TO mcpaudit_writer, start, REVOKE). A store that
-- is up to date is served without.
CREATE ROLE IF NOT EXISTS mcpaudit_schema ON CLUSTER audit;
GRANT ON CLUSTER audit SHOW, CREATE TABLE, ALTER ADD COLUMN, ALTER ADD INDEX, ALTER SETTINGS ON mcpaudit.* TO mcpaudit_schema;
GRANT ON CLUSTER audit REMOTE ON *.* TO mcpaudit_schema;                             -- cluster: tables that reach all shards

-- The writer: what mcpaudit serve uses, in any role. It adds rows and reads them; it has neither
-- ALTER UPDATE nor ALTER DELETE, so it can't change or remove one.
CREATE USER IF NOT EXISTS mcpaudit_writer ON CLUSTER audit IDENTIFIED WITH sha256_password BY 'change me';
GRANT ON CLUSTER audit SHOW, SELECT, INSERT ON mcpaudit.* TO mcpaudit_writer;
GRANT ON CLUSTER audit SELECT ON system.parts TO mcpaudit_writer;                    -- how many parts wait to be merged
GRANT ON CLUSTER audit SELECT ON system.clusters TO mcpaudit_writer;                 -- cluster
GRANT ON CLUSTER audit SELECT ON system.settings TO mcpaudit_writer;                 -- what the server can be told
GRANT ON CLUSTER audit CLUSTER ON *.* TO mcpaudit_writer;                            -- cluster
GRANT ON CLUSTER audit SYSTEM SYNC REPLICA ON mcpaudit.* TO mcpaudit_writer;         -- cluster: before it takes over another's sequence

-- Retention, for the one ingest instance that has retention.auto, as ClickHouse has no right
-- to drop a partition that is not the right to delete rows: leave these out, set
-- retention.auto: false, and run 'mcpaudit retention apply' with an account that has them, if
-- the writer must not be able to. What is deleted without an entry in the ledger, verify finds.
CREATE ROLE IF NOT EXISTS mcpaudit_retention ON CLUSTER audit;
GRANT ON CLUSTER audit ALTER DELETE ON mcpaudit.events TO mcpaudit_retention;
GRANT ON CLUSTER audit ALTER DELETE ON mcpaudit.events_local TO mcpaudit_retention;  -- cluster
GRANT ON CLUSTER audit ALTER DELETE ON mcpaudit.activity_hourly TO mcpaudit_retention; -- what was added up of them
GRANT ON CLUSTER audit ALTER DELETE ON mcpaudit.tools_hourly TO mcpaudit_retention;
GRANT ON CLUSTER audit ALTER DELETE ON mcpaudit.emitters_hourly TO mcpaudit_retention;
GRANT ON CLUSTER audit CREATE TABLE, DROP TABLE, SELECT, INSERT, ALTER DELETE ON mcpaudit.events_retained TO mcpaudit_retention;
GRANT ON CLUSTER audit CREATE TABLE, DROP TABLE, SELECT, INSERT, ALTER DELETE ON mcpaudit.events_retained_local TO mcpaudit_retention; -- cluster
GRANT ON CLUSTER audit REMOTE ON *.* TO mcpaudit_retention;                          -- cluster
-- GRANT ON CLUSTER audit mcpaudit_retention TO mcpaudit_writer;

-- The reader: 'mcpaudit verify' by somebody who does not trust the writer. Nothing but
-- SELECT. Grafana has an account of its own, grafana.sql.
CREATE SETTINGS PROFILE IF NOT EXISTS mcpaudit_reader ON CLUSTER audit
    SETTINGS max_execution_time = 60 MAX 600, max_memory_usage = 2000000000 MAX 8000000000, readonly = 2;
CREATE USER IF NOT EXISTS mcpaudit_reader ON CLUSTER audit IDENTIFIED WITH sha256_password BY 'change me' SETTINGS PROFILE 'mcpaudit_reader';
GRANT ON CLUSTER audit SHOW, SELECT ON mcpaudit.* TO mcpaudit_reader;
GRANT ON CLUSTER audit SELECT ON system.clusters TO mcpaudit_reader;                 -- cluster
