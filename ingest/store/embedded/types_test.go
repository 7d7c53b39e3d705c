package embedded

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
)

const typesTable = `CREATE TABLE types (
	id UUID, u8 UInt8, u16 UInt16, u32 UInt32, u64 UInt64, i64 Int64, f64 Float64,
	s String, lc LowCardinality(String), at DateTime64(6, 'UTC'), day Date, fixed FixedString(16),
	list Array(String), lcList Array(LowCardinality(String)),
	links Array(Tuple(UInt64, LowCardinality(String))),
	nested Nested(n UInt64, what LowCardinality(String)),
	attrs Map(LowCardinality(String), String), yes Bool,
	outcome Enum8('ok' = 1, 'denied' = 2, 'failed' = 3), maybe Nullable(String)
) ENGINE = MergeTree ORDER BY u64`

type typesRow struct {
	id     uuid.UUID
	u8     uint8
	u16    uint16
	u32    uint32
	u64    uint64
	i64    int64
	f64    float64
	s, lc  string
	at     time.Time
	day    time.Time
	fixed  string
	list   []string
	lcList []string
	links  [][]any
	nums   []uint64
	whats  []string
	attrs  map[string]string
	yes    bool
	out    string
	maybe  *string
}

func typesRows(n int) []typesRow {
	rows := make([]typesRow, n)
	for i := range rows {
		r := &rows[i]
		r.id = uuid.UUID{0: byte(i), 15: 0xff}
		r.u8, r.u16, r.u32, r.u64 = uint8(i), uint16(i*7), uint32(i*70000), uint64(i)
		r.i64, r.f64 = -int64(i), float64(i)/3
		r.s = fmt.Sprintf("nul \x00 quote ' \" ` back \\ tab \t é %d", i)
		r.lc = fmt.Sprintf("kind-%d", i%3)
		r.at = time.Date(2026, 11, 20, 1, 2, 3, 123456000+i*1000, time.UTC)
		r.day = time.Date(2026, 11, 1+i%28, 0, 0, 0, 0, time.UTC)
		r.fixed = fmt.Sprintf("%016d", i)
		r.list, r.lcList = []string{}, []string{}
		r.links, r.nums, r.whats, r.attrs = [][]any{}, []uint64{}, []string{}, map[string]string{}
		for j := range i % 4 {
			r.list = append(r.list, fmt.Sprint("l\x00", j))
			r.lcList = append(r.lcList, fmt.Sprint("lc", j%2))
			r.links = append(r.links, []any{uint64(j), fmt.Sprint("rel", j%2)})
			r.nums, r.whats = append(r.nums, uint64(j)), append(r.whats, fmt.Sprint("w", j))
			r.attrs[fmt.Sprint("k", j)] = fmt.Sprint("v'", j)
		}
		r.yes = i%2 == 0
		r.out = []string{"ok", "denied", "failed"}[i%3]
		if i%2 == 1 {
			r.maybe = &r.s
		}
	}
	return rows
}

func (r *typesRow) values() []any {
	return []any{r.id, r.u8, r.u16, r.u32, r.u64, r.i64, r.f64, r.s, r.lc, r.at, r.day, r.fixed, r.list,
		r.lcList, r.links, r.nums, r.whats, r.attrs, r.yes, r.out, r.maybe}
}

func (r *typesRow) targets() []any {
	return []any{&r.id, &r.u8, &r.u16, &r.u32, &r.u64, &r.i64, &r.f64, &r.s, &r.lc, &r.at, &r.day, &r.fixed, &r.list,
		&r.lcList, &r.links, &r.nums, &r.whats, &r.attrs, &r.yes, &r.out, &r.maybe}
}

// columnOf gathers one column of all rows as a typed slice.
func columnOf(rows []typesRow, i int) any {
	var column reflect.Value
	for n := range rows {
		v := reflect.ValueOf(rows[n].values()[i])
		if n == 0 {
			column = reflect.MakeSlice(reflect.SliceOf(v.Type()), 0, len(rows))
		}
		column = reflect.Append(column, v)
	}
	return column.Interface()
}

func TestEveryColumnTypeComesBackAsItWent(t *testing.T) {
	ctx := t.Context()
	conn := connect(t, open(t))
	rows := typesRows(500)
	for _, way := range []string{"rows", "columns"} {
		t.Run(way, func(t *testing.T) {
			mustExec(t, conn, "DROP TABLE IF EXISTS types", typesTable)
			batch, err := conn.PrepareBatch(context.Background(), "INSERT INTO types")
			if err != nil {
				t.Fatal(err)
			}
			if way == "rows" {
				for i := range rows {
					if err := batch.Append(rows[i].values()...); err != nil {
						t.Fatal(err)
					}
				}
			} else {
				for i := range rows[0].values() {
					if err := batch.Column(i).Append(columnOf(rows, i)); err != nil {
						t.Fatalf("column %d: %v", i, err)
					}
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
			got, err := conn.Query(ctx, "SELECT * FROM types ORDER BY u64")
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			n := 0
			for ; got.Next(); n++ {
				var r typesRow
				if err := got.Scan(r.targets()...); err != nil {
					t.Fatal(err)
				}
				r.at, r.day = r.at.UTC(), r.day.UTC()
				want := rows[n]
				if !reflect.DeepEqual(r, want) {
					t.Fatalf("row %d\n got %#v\nwant %#v", n, r, want)
				}
			}
			if err := got.Err(); err != nil || n != len(rows) {
				t.Fatalf("read %d rows, %v", n, err)
			}
		})
	}
}
