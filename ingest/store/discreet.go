package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// discreet is a connection whose errors don't quote what was asked. Over HTTP a server
// that is away has its errors with the request's URL in them, where the bound values
// are: up to a megabyte of emitters' names, and persons'.
type discreet struct{ driver.Conn }

// unquoted is err without the URL of a request.
func unquoted(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("reach the server: %w", u.Err)
	}
	return err
}

func (c discreet) Ping(ctx context.Context) error { return unquoted(c.Conn.Ping(ctx)) }

func (c discreet) Exec(ctx context.Context, sql string, args ...any) error {
	return unquoted(c.Conn.Exec(ctx, sql, args...))
}

func (c discreet) Query(ctx context.Context, sql string, args ...any) (driver.Rows, error) {
	rows, err := c.Conn.Query(ctx, sql, args...)
	return rows, unquoted(err)
}

func (c discreet) QueryRow(ctx context.Context, sql string, args ...any) driver.Row {
	return discreetRow{c.Conn.QueryRow(ctx, sql, args...)}
}

func (c discreet) PrepareBatch(ctx context.Context, sql string, options ...driver.PrepareBatchOption) (driver.Batch, error) {
	batch, err := c.Conn.PrepareBatch(ctx, sql, options...)
	if err != nil {
		return nil, unquoted(err)
	}
	return discreetBatch{batch}, nil
}

type discreetRow struct{ driver.Row }

func (r discreetRow) Err() error                { return unquoted(r.Row.Err()) }
func (r discreetRow) Scan(into ...any) error    { return unquoted(r.Row.Scan(into...)) }
func (r discreetRow) ScanStruct(into any) error { return unquoted(r.Row.ScanStruct(into)) }

type discreetBatch struct{ driver.Batch }

func (b discreetBatch) Send() error { return unquoted(b.Batch.Send()) }
