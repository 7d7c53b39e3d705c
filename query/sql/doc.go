// Package sql answers ClickHouse's HTTP interface for those who read the log with SQL:
// Grafana's ClickHouse data source, curl, notebooks. It is for the engine in process; a
// ClickHouse server has accounts of its own (deploy/clickhouse/grafana.sql).
//
//	curl -u grafana:$KEY 'http://127.0.0.1:8124/' --data 'SELECT count() FROM events'
//
// # Who
//
// The password is an API key with the role analyst or auditor, or a token; the user's
// name is not looked at. It comes by HTTP basic authentication, as X-ClickHouse-Key or as
// "Authorization: Bearer". The same guard judges it as every other call: revoked keys,
// delays after failed tries, quotas, notes of refusals. A key whose content level is none
// is refused altogether: whoever writes the statement can ask for a hidden column in a
// hundred ways, and half of a table is not worth finding out which of them is left.
//
// So is a key that is not for every tenant. The engine can filter a tenant's rows, and
// does for the API's own statements; but a statement that somebody else has written finds
// out about the rows that were taken out: a column of LowCardinality keeps their values in
// its dictionary, the engine calls functions on all of that, and whether a function fails
// on a value tells what it is, a character at a time. Whose tenants must not know of each
// other reads through the API.
//
// # What
//
// One statement that reads: SELECT, EXPLAIN, DESCRIBE TABLE, SHOW TABLES, SHOW DATABASES,
// SHOW CREATE TABLE, EXISTS TABLE. Four things decide it, and each alone would do for most:
//
//   - the engine's parser says that it is one statement that changes nothing;
//   - its syntax tree has nothing but what is known here (see judge): tables by an
//     allow-list, no SETTINGS anywhere, no table function but numbers and their like,
//     no function that reads files, settings or other tables, no virtual column;
//   - it runs on a connection whose rights in the engine are SELECT on those tables;
//   - and with readonly=1, under limits of time, memory, rows and bytes.
//
// # Noted
//
// What is asked is in the log before it is answered: each statement of an identity, with
// its literals taken out, once an hour with its whole text, which a dashboard that asks
// every ten seconds can afford; and at the end of an hour, and of the service, how many
// statements an identity sent and how many rows it saw. What the log does not take is not
// shown.
package sql
