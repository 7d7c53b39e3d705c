package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// The store on a ClickHouse cluster ([Config].Cluster).
//
// The schema files say what a table is on one machine; what it is on a cluster is
// derived from that text here, so there is one schema. Two kinds of tables:
//
//   - events and ledger are cut into shards. NAME_local, a Replicated… table, has a
//     shard's rows on each replica of the shard; NAME is a Distributed table over
//     all shards, and what every SELECT and INSERT names.
//   - All others are small and whole on every machine: one Replicated… table whose
//     replicas are all machines of the cluster. Statements about findings join three of
//     them: here that join is local, and no statement joins two Distributed tables. What
//     was added up for dashboards is among them: it is a tenth of the events at most, a
//     panel is then one machine's work, and whoever adds up a log writes to the machine
//     that it is connected to and reads there what it has written.
//
// Writing. A batch goes through NAME to the shard of its log (shardOf): all its rows
// have one log and one month, so on that shard it is one part, stored whole or not at
// all, and its deduplication token meets its own first attempt there. The answer
// comes when a majority of the replicas has the part on disk (insert_quorum = auto),
// each synced. Quorum inserts run side by side: one after the other
// (insert_quorum_parallel = 0) an insert fails while that of another instance is
// under way, and the pipeline would take it for an outage.
//
// Reading before deciding. With inserts side by side ClickHouse can't keep a reader
// to complete replicas (select_sequential_consistency has no effect then), and an
// insert whose answer was lost may still become visible. So who decides what is
// stored already calls [Store.settle] first: after it, each replica that answers has
// all that was committed before.

// clusterName is what a cluster may be called: it is quoted, not bound, in statements.
var clusterName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// layout is where the tables of a store are. The zero value is one machine.
type layout struct {
	cluster  string // name in the servers' remote_servers; empty on one machine
	database string
}

// shardOf says to which shard a row of a sharded table goes: the number at the end of
// the log's name, so that the logs ingest-0, ingest-1, … take shards in turn, and a hash
// of the log when its name has none. The rest of a log's id is 12 random hexadecimal
// digits; see ingest.NewLogID. ClickHouse takes it modulo the number of shards.
const shardOf = "ifNull(toUInt64OrNull(extract(toString(log_id), '([0-9]{1,9})-[0-9a-f]{12}$')), cityHash64(toString(log_id)))"

// sharded are the tables that are cut into shards. Each has a column log_id.
var sharded = map[string]bool{"events": true, "ledger": true, retained: true}

// clusterSettings hold for all statements of a connection to a cluster, whatever the
// server's profile says.
var clusterSettings = clickhouse.Settings{
	"insert_quorum":          "auto", // a majority of the replicas that the table has
	"insert_quorum_parallel": 1,
	// Milliseconds. Less than the pipeline waits for an insert, so that it hears why.
	"insert_quorum_timeout": 30_000,
	// The answer to an insert comes from the shard, not from a queue before it.
	"distributed_foreground_insert":       1,
	"insert_distributed_one_random_shard": 0,
	// An answer is whole or an error, never what the shards that are up know.
	"skip_unavailable_shards":                            0,
	"fallback_to_stale_replicas_for_distributed_queries": 0,
	"max_replica_delay_for_distributed_queries":          60, // seconds
	// A row on a shard that is not its log's was put there by hand: verify must see it.
	"optimize_skip_unused_shards": 0,
	// No statement needs it; one that does must be written otherwise.
	"distributed_product_mode":     "deny",
	"alter_sync":                   2,   // all replicas have a change of the schema when it returns
	"distributed_ddl_task_timeout": 120, // seconds
	"distributed_ddl_output_mode":  "throw",
}

// local is what a table that [Store.define] made is called in system tables.
func (l layout) local(table string) string {
	if l.cluster != "" && sharded[table] {
		return table + "_local"
	}
	return table
}

// parts is a table of all machines' parts: active, database, table, partition_id,
// bytes_on_disk, and host. A part counts once, whatever the number of its replicas.
func (l layout) parts() string {
	if l.cluster != "" {
		return clusterParts
	}
	return "system.parts"
}

// clusterParts is system.parts of one replica of each shard. It has no rows of its own.
const clusterParts = "cluster_parts"

func (l layout) createParts() string {
	return "CREATE TABLE IF NOT EXISTS " + l.name(clusterParts) + l.onCluster() +
		"\n(\n    active UInt8,\n    database String,\n    table String,\n    partition_id String,\n    bytes_on_disk UInt64\n)\nENGINE = Distributed(" +
		quoted(l.cluster) + ", 'system', 'parts')"
}

func (l layout) onCluster() string { return " ON CLUSTER `" + l.cluster + "`" }

// name is a table's full name. A statement ON CLUSTER runs in sessions that have
// another current database.
func (l layout) name(table string) string { return "`" + l.database + "`." + table }

func quoted(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }

// The forms of statements that define or empty tables. Those of the schema files and
// of retention have no others.
var (
	createForm  = regexp.MustCompile(`(?s)^CREATE TABLE IF NOT EXISTS (\w+)\s*(\(.*\))\s*ENGINE = (ReplacingMergeTree|AggregatingMergeTree|MergeTree)(?:\((\w+)\))?\n(.*)$`)
	createAs    = regexp.MustCompile(`^CREATE TABLE (\w+) AS (\w+)$`)
	dropForm    = regexp.MustCompile(`^DROP TABLE IF EXISTS (\w+) SYNC$`)
	mergeForm   = regexp.MustCompile(`^OPTIMIZE TABLE (\w+) FINAL$`)
	alterForm   = regexp.MustCompile(`(?s)^ALTER TABLE (\w+) ((?:ADD|MODIFY|DROP|RENAME) COLUMN .*|(?:ADD|DROP|MATERIALIZE) INDEX .*|MODIFY SETTING .*|DROP PARTITION ID '\d+'|REPLACE PARTITION ID '\d+' FROM (\w+))$`)
	fromKeysOn  = regexp.MustCompile(`(?s)^(PARTITION BY .*|ORDER BY .*)$`)
	window      = regexp.MustCompile(`\bnon_replicated_deduplication_window = \d+`)
	settingsOf  = regexp.MustCompile(`\bSETTINGS\b`)
	syncedAlone = regexp.MustCompile(`\bfsync_after_insert = 1\b`)
)

// replicatedWindow is how long a shard knows the tokens of inserts: by number and by
// time, in seconds, whichever ends first. All instances' inserts count together, and
// one that lost its store must find its token when it is back: the engine's own hour
// is less than an outage may last.
const replicatedWindow = "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800"

// derive returns the statements that do on the store's layout what stmt does on one
// machine, in their order. Each can be run again after a crash wherever stmt can.
func (l layout) derive(stmt string) ([]string, error) {
	if l.cluster == "" {
		return []string{stmt}, nil
	}
	if m := createForm.FindStringSubmatch(stmt); m != nil {
		return l.create("CREATE TABLE IF NOT EXISTS ", m[1], m[2], m[3], m[4], m[5])
	}
	if m := createAs.FindStringSubmatch(stmt); m != nil {
		return l.createLike(m[1], m[2])
	}
	if m := dropForm.FindStringSubmatch(stmt); m != nil {
		out := []string{"DROP TABLE IF EXISTS " + l.name(l.local(m[1])) + l.onCluster() + " SYNC"}
		if sharded[m[1]] { // the way to it first
			out = append([]string{"DROP TABLE IF EXISTS " + l.name(m[1]) + l.onCluster() + " SYNC"}, out...)
		}
		return out, nil
	}
	if m := mergeForm.FindStringSubmatch(stmt); m != nil {
		return []string{"OPTIMIZE TABLE " + l.name(l.local(m[1])) + l.onCluster() + " FINAL"}, nil
	}
	if window.MatchString(stmt) && alterForm.MatchString(stmt) {
		return nil, nil // replicas have a window of their own, see replicatedWindow
	}
	if m := alterForm.FindStringSubmatch(stmt); m != nil {
		return l.alter(m[1], m[2], m[3]), nil
	}
	word, _, _ := strings.Cut(stmt, "\n")
	return nil, fmt.Errorf("derive the statement for cluster %q: it is of no known form: %.80s", l.cluster, word)
}

// create makes a table of columns, an engine's name and argument, and what follows it.
func (l layout) create(verb, table, columns, engine, argument, rest string) ([]string, error) {
	if !fromKeysOn.MatchString(rest) || !settingsOf.MatchString(rest) || !syncedAlone.MatchString(rest) {
		return nil, fmt.Errorf("derive table %s for cluster %q: its definition lacks a key, or settings that sync what is inserted", table, l.cluster)
	}
	out := []string{verb + l.name(l.local(table)) + l.onCluster() + "\n" + columns + "\nENGINE = " + l.engine(table, engine, argument) + "\n" + replicatedSettings(rest)}
	if sharded[table] {
		out = append(out, verb+l.name(table)+l.onCluster()+" AS "+l.name(l.local(table))+"\nENGINE = "+l.distributed(table))
	}
	return out, nil
}

// createLike makes a table like another one of the first schema file.
func (l layout) createLike(table, other string) ([]string, error) {
	all, err := migrations(schemaFiles)
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		for _, stmt := range m.statements {
			if c := createForm.FindStringSubmatch(stmt); c != nil && c[1] == other {
				return l.create("CREATE TABLE ", table, "AS "+l.name(l.local(other)), c[3], c[4], c[5])
			}
		}
	}
	return nil, fmt.Errorf("derive table %s for cluster %q: there is no table %s in the schema", table, l.cluster, other)
}

// engine is the replicated form of a MergeTree. Where a table's replicas meet in Keeper
// has the shard in it when it is sharded; otherwise all machines are its replicas,
// told apart by both of their macros.
func (l layout) engine(table, engine, argument string) string {
	path, replica := "/clickhouse/mcpaudit/{database}/all/{table}", "{shard}-{replica}"
	if sharded[table] {
		path, replica = "/clickhouse/mcpaudit/{database}/{shard}/{table}", "{replica}"
	}
	if argument != "" {
		argument = ", " + argument
	}
	return "Replicated" + engine + "(" + quoted(path) + ", " + quoted(replica) + argument + ")"
}

func (l layout) distributed(table string) string {
	return "Distributed(" + quoted(l.cluster) + ", " + quoted(l.database) + ", " + quoted(l.local(table)) + ", " + shardOf + ")"
}

// replicatedSettings are a table's keys and settings as replicas need them: a part
// that is fetched is synced like one that is inserted, or a majority would have it in
// memory alone.
func replicatedSettings(rest string) string {
	if window.MatchString(rest) {
		rest = window.ReplaceAllString(rest, replicatedWindow)
	} else {
		rest = strings.TrimRight(rest, "\n") + ", " + replicatedWindow
	}
	return rest + ", min_compressed_bytes_to_fsync_after_fetch = 1"
}

// alter changes a table; from is another table that the action names, or empty. A
// replicated table tells its replicas itself, so one that is whole everywhere is
// altered on one machine, and a sharded one on one machine of each shard, which is
// what ON CLUSTER does.
func (l layout) alter(table, action, from string) []string {
	if !sharded[table] {
		return []string{"ALTER TABLE " + l.name(table) + " " + action}
	}
	if from != "" {
		action = strings.TrimSuffix(action, from) + l.name(l.local(from))
	}
	out := []string{"ALTER TABLE " + l.name(l.local(table)) + l.onCluster() + " " + action}
	if strings.Fields(action)[1] == "COLUMN" {
		out = append(out, "ALTER TABLE "+l.name(table)+l.onCluster()+" "+action)
	}
	return out
}

// define runs a statement that defines or empties tables, in the form that the
// store's layout needs. It may be run again after an error wherever the statement may.
func (s *Store) define(ctx context.Context, stmt string) error {
	all, err := s.layout.derive(stmt)
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := s.conn.Exec(ctx, one); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until each machine that is up has all rows of the tables that were
// committed when it was called, also those of inserts whose answer nobody has heard.
// Whoever decides by what is stored needs it: who takes over an emitter's sequence or
// another's identities calls it, who starts has called [Store.Migrate]. On one machine
// there is nothing to wait for; on a cluster it costs a round through Keeper for each
// table, some tenths of a second.
//
// A machine that is away does not hold it up, unless it alone has a part: then settle
// fails, and what was to be decided waits until that machine is back or is dropped from
// the cluster (SYSTEM DROP REPLICA).
func (s *Store) settle(ctx context.Context, tables ...string) error {
	if s.layout.cluster == "" {
		return nil
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithSettings(settling))
	for _, table := range tables {
		if err := s.conn.Exec(ctx, s.layout.sync(table)); err != nil {
			return fmt.Errorf("wait until all replicas of %s are up to date: %w", table, err)
		}
	}
	return nil
}

// settling is about machines that are up: one that is away answers no query either.
var settling = clickhouse.Settings{"distributed_ddl_output_mode": "throw_only_active"}

func (l layout) sync(table string) string {
	return "SYSTEM SYNC REPLICA" + l.onCluster() + " " + l.name(l.local(table)) + " LIGHTWEIGHT"
}

// openCluster finds out what statements need to name, and opens the connection anew
// with what must hold for all of them.
func (s *Store) openCluster(ctx context.Context, opt *clickhouse.Options, cluster string) error {
	l := layout{cluster: cluster}
	var machines, replicas uint64
	if err := s.conn.QueryRow(ctx, `SELECT currentDatabase(), sum(n), min(n) FROM (
		SELECT count() AS n FROM system.clusters WHERE cluster = {cluster:String} GROUP BY shard_num)`, named("cluster", cluster)).Scan(&l.database, &machines, &replicas); err != nil {
		return fmt.Errorf("look for cluster %q: %w", cluster, err)
	}
	if machines == 0 {
		return fmt.Errorf("look for cluster %q: the server has none of this name in its remote_servers; see store.cluster", cluster)
	}
	if strings.ContainsAny(l.database, "`\\'") {
		return errors.New("look for the store's database: its name has a quote or a backslash; use another")
	}
	settings := maps.Clone(opt.Settings) // those of the DSN
	if settings == nil {
		settings = clickhouse.Settings{}
	}
	maps.Copy(settings, clusterSettings)
	if replicas == 1 {
		// There is nobody to wait for, and the engine would: a majority of one is never
		// reported (measured with ClickHouse 26.7).
		settings["insert_quorum"] = 0
	}
	opt.Settings = settings
	conn, err := clickhouse.Open(opt)
	if err != nil {
		return err
	}
	err = s.conn.Close()
	s.conn, s.layout = discreet{conn}, l
	return err
}

// replacing are the settings of a statement that replaces a partition on all shards:
// on one where nothing of it stays, it is emptied, which newer servers do when told to.
func (s *Store) replacing(ctx context.Context) (context.Context, error) {
	const emptied = "allow_replace_partition_from_empty_source"
	if s.layout.cluster == "" {
		return wholesale(ctx), nil
	}
	var known uint64
	if err := s.conn.QueryRow(ctx, "SELECT count() FROM system.settings WHERE name = {name:String}", named("name", emptied)).Scan(&known); err != nil {
		return nil, fmt.Errorf("ask for the server's settings: %w", err)
	}
	if known == 0 {
		return wholesale(ctx), nil
	}
	return clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{
		"max_partition_size_to_drop": 0, "max_table_size_to_drop": 0, emptied: 1, // see wholesale
	})), nil
}
