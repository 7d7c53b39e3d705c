package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheDashboardsAreCurrent(t *testing.T) {
	dir := t.TempDir()
	if err := run([]string{dir}); err != nil {
		t.Fatal(err)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(made) != 6 {
		t.Fatalf("%v were made, %v; want six", made, err)
	}
	committed, err := filepath.Glob("../*.json")
	if err != nil || len(committed) != len(made) {
		t.Errorf("%v are committed, %v; want %d", committed, err, len(made))
	}
	for _, name := range made {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join("..", filepath.Base(name)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("dashboards/%s is not what its source makes; run go generate ./dashboards", filepath.Base(name))
		}
	}
}

func TestAFolderThatIsNotThereIsNamed(t *testing.T) {
	for _, args := range [][]string{nil, {"a", "b"}, {filepath.Join(t.TempDir(), "absent")}} {
		if err := run(args); err == nil || len(args) == 1 && !strings.Contains(err.Error(), "absent") {
			t.Errorf("%v: %v", args, err)
		}
	}
}

func TestPanelsAreLaidOutInLines(t *testing.T) {
	row := func(ask ...ask) (out []gridPos) {
		for _, p := range build(ask) {
			out = append(out, p.GridPos)
		}
		return out
	}
	got := row(ask{kind: "row", w: 24, h: 1}, ask{kind: "stat", w: 12, h: 4}, ask{kind: "stat", w: 12, h: 6}, ask{kind: "stat", w: 8, h: 2})
	want := []gridPos{{1, 24, 0, 0}, {4, 12, 0, 1}, {6, 12, 12, 1}, {2, 8, 0, 7}}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("panel %d lies at %+v, want %+v", i, got[i], want[i])
		}
	}
}
