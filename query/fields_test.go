package query

import (
	"errors"
	"testing"
)

// Another table than that of events has its own names, and kinds that events don't
// have: ranks, decimals, and times that may be absent.
func TestAFilterOverAnotherTable(t *testing.T) {
	f := NewFields(`size = "big" AND weight > 1.5`,
		Field{Name: "size", SQL: "indexOf(['small', 'big'], size)", Kind: RankKind, Words: []string{"small", "big"}},
		Field{Name: "weight", SQL: "weight", Kind: DecimalKind},
		Field{Name: "gone_at", SQL: "gone_at", Kind: TimeKind, Known: "gone_at > 0"})
	for _, c := range []struct{ filter, sql, args string }{
		{`size >= "big"`, "indexOf(['small', 'big'], size) >= {p0:UInt8}", "0x2"},
		{`size != small`, "indexOf(['small', 'big'], size) != {p0:UInt8}", "0x1"},
		{`weight > 1.5`, "weight > {p0:Float64}", "1.5"},
		{`weight <= -2e3`, "weight <= {p0:Float64}", "-2000"},
		{`NOT gone_at < "1970-01-01T00:00:01Z"`, "NOT ((gone_at > 0 AND gone_at < fromUnixTimestamp64Micro({p0:Int64}, 'UTC')))", "1000000"},
	} {
		got, err := f.compile(c.filter)
		if err != nil || got.sql != c.sql || bound(got) != c.args {
			t.Errorf("%s: %s with %s, %v; want %s with %s", c.filter, got.sql, bound(got), err, c.sql, c.args)
		}
	}
	for filter, want := range map[string]string{
		`size = "large"`:     "filter, character 8: size is one of small, big",
		`size : "big"`:       "filter, character 1: size can't be compared by :; use one of = != < <= > >= ",
		`weight = NaN`:       "filter, character 10: weight is compared with a number such as 2.5",
		`weight = 1e999`:     "filter, character 10: weight is compared with a number such as 2.5",
		`wieght = 1`:         `filter, character 1: there is no field "wieght"; the nearest is weight`,
		`server = "x"`:       `filter, character 1: there is no field "server"; the nearest is size`,
		`size`:               `filter, character 1: compare a field with a value, such as size = "big"`,
		`size = "big" AND (`: `filter, character 19: it ends too early; write comparisons such as size = "big" AND weight > 1.5`,
	} {
		_, _, err := f.Compile(filter)
		var at *FilterError
		if !errors.As(err, &at) || err.Error() != want {
			t.Errorf("%s: %v, want %s", filter, err, want)
		}
	}
}
