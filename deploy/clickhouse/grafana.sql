-- The account with which Grafana's ClickHouse data source reads a ClickHouse server or cluster.
-- Run it after users.sql, as an administrator; the tables need not be there yet:
--     clickhouse-client --multiquery < grafana.sql
-- On a single server take out every ON CLUSTER audit, and the lines that say "cluster".
-- Change the password. The engine in process needs none of this: see listen.sql.
--
-- What this account sees is not noted in the log as what is asked of mcpaudit is; the server's
-- own query_log has it. Whoever may edit a dashboard or use Explore may send any statement, so
-- what it must not do is said by rights and row policies. Settings bound what it costs.

-- readonly = 2: Grafana's driver sends settings with each statement, max_execution_time among
-- them, which readonly = 1 refuses. They may be lowered, and raised to their MAX; readonly
-- itself can't be changed. Not all servers look at the bounds of a SETTINGS clause in a
-- subquery: these keep mistakes in bounds, and the quota below those who mean it.
CREATE SETTINGS PROFILE IF NOT EXISTS mcpaudit_grafana ON CLUSTER audit SETTINGS
    readonly = 2,
    max_execution_time = 30 MIN 0.001 MAX 60,
    timeout_overflow_mode = 'throw' CONST,
    max_memory_usage = 1000000000 MIN 1000000 MAX 2000000000,
    max_threads = 2 MIN 1 MAX 4,
    max_result_rows = 100000 MIN 1 MAX 1000000,
    max_result_bytes = 67108864 MIN 1 MAX 268435456,
    result_overflow_mode = 'throw' CONST,
    max_rows_to_read = 1000000000 MIN 1 MAX 2000000000,
    read_overflow_mode = 'throw' CONST,
    max_concurrent_queries_for_user = 20 CONST,
    use_query_cache = 0 CONST,              -- an answer must not outlive a right
    use_query_condition_cache = 0 CONST,    -- what was learnt for one tenant is not for another
    allow_ddl = 0 CONST,
    allow_introspection_functions = 0 CONST;

-- What it reads, and nothing else: no api_keys, cursors, detector_state, schema_migrations and
-- activity_ranges, no sources (URL, FILE, REMOTE, S3, …), no dictionaries, no writes.
CREATE ROLE IF NOT EXISTS mcpaudit_grafana_reads ON CLUSTER audit;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.events TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.findings TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.finding_actions TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.notifications TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.activity_hourly TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.tools_hourly TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.tool_definitions TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.emitters_hourly TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.logs TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.ledger TO mcpaudit_grafana_reads;
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.kept TO mcpaudit_grafana_reads;
-- On a cluster a statement runs on each shard as this account, too, and reads the tables behind:
-- give remote_servers a <secret>, or it runs there as somebody else.
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.events_local TO mcpaudit_grafana_reads;          -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.findings_local TO mcpaudit_grafana_reads;        -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.finding_actions_local TO mcpaudit_grafana_reads; -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.notifications_local TO mcpaudit_grafana_reads;   -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.activity_hourly_local TO mcpaudit_grafana_reads; -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.tools_hourly_local TO mcpaudit_grafana_reads;  -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.tool_definitions_local TO mcpaudit_grafana_reads; -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.emitters_hourly_local TO mcpaudit_grafana_reads; -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.logs_local TO mcpaudit_grafana_reads;            -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.ledger_local TO mcpaudit_grafana_reads;          -- cluster
GRANT ON CLUSTER audit SELECT, SHOW COLUMNS ON mcpaudit.kept_local TO mcpaudit_grafana_reads;            -- cluster

CREATE QUOTA IF NOT EXISTS mcpaudit_grafana ON CLUSTER audit
    KEYED BY user_name FOR INTERVAL 1 minute MAX queries = 3000, execution_time = 240 TO mcpaudit_grafana_reads;

-- An account for people who see every tenant.
CREATE USER IF NOT EXISTS mcpaudit_grafana ON CLUSTER audit IDENTIFIED WITH sha256_password BY 'change me'
    DEFAULT DATABASE mcpaudit SETTINGS PROFILE 'mcpaudit_grafana';
GRANT ON CLUSTER audit mcpaudit_grafana_reads TO mcpaudit_grafana;

-- An account for one tenant, here acme, with a data source and dashboards of its own in Grafana.
-- Policies take out other tenants' rows before anything of a statement is evaluated on them, but
-- not what a LowCardinality column's dictionary has of them (names of servers, tools and tenants):
-- a function that fails on such a value tells of it. Whoever must not find that out gets no SQL. A
-- table with a policy for somebody may show nothing to those without one (the server's setting
-- users_without_row_policies_can_read_rows), hence the first ones, for all the others. The
-- tables logs, ledger and kept are about all tenants at once: they hold numbers of batches, and
-- hashes. So do total_rows and total_bytes in system.tables, of all tenants together. On a
-- cluster it is the policies of the tables behind, with _local, that count.
--
-- CREATE USER IF NOT EXISTS mcpaudit_grafana_acme ON CLUSTER audit IDENTIFIED WITH sha256_password BY 'change me'
--     DEFAULT DATABASE mcpaudit SETTINGS PROFILE 'mcpaudit_grafana';
-- GRANT ON CLUSTER audit mcpaudit_grafana_reads TO mcpaudit_grafana_acme;
-- CREATE ROW POLICY IF NOT EXISTS mcpaudit_others ON CLUSTER audit
--     ON mcpaudit.events, mcpaudit.findings, mcpaudit.finding_actions, mcpaudit.notifications,
--        mcpaudit.activity_hourly, mcpaudit.tools_hourly, mcpaudit.tool_definitions,
--        mcpaudit.emitters_hourly
--     USING 1 TO ALL EXCEPT mcpaudit_grafana_acme;
-- CREATE ROW POLICY IF NOT EXISTS mcpaudit_acme ON CLUSTER audit
--     ON mcpaudit.events, mcpaudit.findings, mcpaudit.finding_actions, mcpaudit.notifications,
--        mcpaudit.activity_hourly, mcpaudit.tools_hourly, mcpaudit.tool_definitions,
--        mcpaudit.emitters_hourly
--     USING tenant = 'acme' TO mcpaudit_grafana_acme;
-- CREATE ROW POLICY IF NOT EXISTS mcpaudit_others_local ON CLUSTER audit  -- cluster
--     ON mcpaudit.events_local, mcpaudit.findings_local, mcpaudit.finding_actions_local,
--        mcpaudit.notifications_local, mcpaudit.activity_hourly_local,
--        mcpaudit.tools_hourly_local, mcpaudit.tool_definitions_local,
--        mcpaudit.emitters_hourly_local
--     USING 1 TO ALL EXCEPT mcpaudit_grafana_acme;
-- CREATE ROW POLICY IF NOT EXISTS mcpaudit_acme_local ON CLUSTER audit  -- cluster
--     ON mcpaudit.events_local, mcpaudit.findings_local, mcpaudit.finding_actions_local,
--        mcpaudit.notifications_local, mcpaudit.activity_hourly_local,
--        mcpaudit.tools_hourly_local, mcpaudit.tool_definitions_local,
--        mcpaudit.emitters_hourly_local
--     USING tenant = 'acme' TO mcpaudit_grafana_acme;
