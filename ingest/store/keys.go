package store

import (
	"context"
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// KeyChange is one row of an API key: that it was made, or that it ends earlier.
type KeyChange struct {
	KeyID     string
	Change    string // made, rotated or revoked
	At        time.Time
	By        string // id of an identity
	ExpiresAt time.Time
	Successor string // of rotated
	Note      string // of revoked

	// Of made alone.
	Hash              [32]byte // SHA-256 of the secret
	Name              string
	Roles             []string
	Tenant            string
	Servers, Emitters []string
	Content           string
}

const keyColumns = "key_id, change, changed_at, changed_by, expires_at, successor, note, hash, name, roles, tenant, servers, emitters, content"

// AppendKeys stores changes of keys, all or none, durably and once: the same key,
// change and time is the same row. After an error, which may come after they are
// stored, append them again.
func (s *Store) AppendKeys(ctx context.Context, changes ...KeyChange) error {
	token := "key"
	for i := range changes {
		token += fmt.Sprintf("/%s/%s/%d", changes[i].KeyID, changes[i].Change, changes[i].At.UnixMicro())
	}
	insert, err := s.conn.PrepareBatch(once(ctx, token), "INSERT INTO api_keys ("+keyColumns+")")
	if err != nil {
		return fmt.Errorf("store API key: %w", err)
	}
	for i := range changes {
		k := &changes[i]
		if err := insert.Append(k.KeyID, k.Change, k.At, k.By, k.ExpiresAt, k.Successor, k.Note, string(k.Hash[:]), k.Name,
			filled(k.Roles), k.Tenant, filled(k.Servers), filled(k.Emitters), k.Content); err != nil {
			_ = insert.Abort() // nothing was sent
			return fmt.Errorf("store API key %s: %w", k.KeyID, err)
		}
	}
	if err := insert.Send(); err != nil {
		return fmt.Errorf("store API key: %w", err)
	}
	return nil
}

// filled is what the driver takes for an empty list.
func filled(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// keyLimits are those of reading keys: the service waits for them before it lets
// anybody in.
var keyLimits = Limits{Time: 10 * time.Second}

// KeyRows is how many rows there are of all keys: when it is what it was, nothing has
// changed, since rows are only added.
func (s *Store) KeyRows(ctx context.Context) (n uint64, err error) {
	err = s.each(ctx, "SELECT count() FROM api_keys", func(rows driver.Rows) error { return rows.Scan(&n) })
	if err != nil {
		return 0, fmt.Errorf("count API keys: %w", err)
	}
	return n, nil
}

// Keys reads all rows of all keys, a key's together, oldest first, and stops at an
// error of f.
func (s *Store) Keys(ctx context.Context, f func(KeyChange) error) error {
	err := s.each(ctx, "SELECT "+keyColumns+" FROM api_keys ORDER BY key_id, changed_at, change", func(rows driver.Rows) error {
		var k KeyChange
		var hash string
		if err := rows.Scan(&k.KeyID, &k.Change, &k.At, &k.By, &k.ExpiresAt, &k.Successor, &k.Note, &hash, &k.Name, &k.Roles, &k.Tenant, &k.Servers, &k.Emitters, &k.Content); err != nil {
			return err
		}
		copy(k.Hash[:], hash)
		return f(k)
	})
	if err != nil {
		return fmt.Errorf("read API keys: %w", err)
	}
	return nil
}

func (s *Store) each(ctx context.Context, sql string, f func(driver.Rows) error) error {
	rows, err := s.Query(ctx, keyLimits, sql)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
