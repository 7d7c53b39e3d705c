package embedded

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// packageOf makes a tarball as npm's are, with its hash.
func packageOf(t testing.TB, entries ...*tar.Header) (tarball []byte, integrity string) {
	t.Helper()
	var b bytes.Buffer
	zipped := gzip.NewWriter(&b)
	w := tar.NewWriter(zipped)
	for _, h := range entries {
		h.Mode = 0o755
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), zipped.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(b.Bytes())
	return b.Bytes(), "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

// deliver is a registry that has one package, and counts.
func deliver(tarball []byte, calls *int) fetchFunc {
	return func(_ context.Context, dir, _ string) (string, error) {
		*calls++
		path := filepath.Join(dir, "package.tgz")
		return path, os.WriteFile(path, tarball, 0o600)
	}
}

func TestInstallIsWholeAndDoneOnce(t *testing.T) {
	tarball, integrity := packageOf(t,
		&tar.Header{Name: "package/../../escape", Size: 3}, &tar.Header{Name: "package/index.js", Size: 9}, &tar.Header{Name: "package/libchdb.so", Size: 1000})
	r := release{name: "lib", integrity: integrity, size: 1000}
	dir := filepath.Join(t.TempDir(), "a", "engine")
	calls := 0
	for want := range 2 {
		var progress strings.Builder
		path, err := r.install(t.Context(), dir, &progress, deliver(tarball, &calls))
		if err != nil || path != filepath.Join(dir, "libchdb.so") || calls != 1 {
			t.Fatalf("round %d: %q, %v, %d fetches", want, path, err, calls)
		}
		if !strings.Contains(progress.String(), path) {
			t.Errorf("it only said %q", progress.String())
		}
	}
	path := filepath.Join(dir, "libchdb.so")
	if err := os.Truncate(path, 999); err != nil {
		t.Fatal(err)
	}
	if _, err := r.install(t.Context(), dir, &strings.Builder{}, deliver(tarball, &calls)); err != nil || calls != 2 {
		t.Errorf("a damaged library was left: %v, %d fetches", err, calls)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left in the folder: %v, %v", left, err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != 1000 || info.Mode().Perm()&0o111 == 0 {
		t.Errorf("got %v, %v", info, err)
	}
}

func TestInstallRefusesWhatIsNotPinned(t *testing.T) {
	good, integrity := packageOf(t, &tar.Header{Name: "package/libchdb.so", Size: 1000})
	long, longHash := packageOf(t, &tar.Header{Name: "package/libchdb.so", Size: 1001})
	none, noneHash := packageOf(t, &tar.Header{Name: "libchdb.so", Size: 1000})
	link, linkHash := packageOf(t, &tar.Header{Name: "package/libchdb.so", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for _, test := range []struct {
		name, integrity, want string
		tarball               []byte
	}{
		{"tampered package", integrity, "verify lib@" + Version + ": its hash is sha512-", flipped},
		{"tampered pin", longHash, "verify lib@" + Version + ": its hash is " + integrity, good},
		{"longer library", longHash, "its libchdb.so is 1001 bytes, pinned is a file of 1000", long},
		{"no library", noneHash, "it has no libchdb.so", none},
		{"link", linkHash, "its libchdb.so is 0 bytes", link},
		{"cut off", "", "", good[:60]},
	} {
		dir, calls := t.TempDir(), 0
		if test.integrity == "" {
			sum := sha512.Sum512(test.tarball)
			test.integrity = "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
		}
		r := release{name: "lib", integrity: test.integrity, size: 1000}
		_, err := r.install(t.Context(), dir, &strings.Builder{}, deliver(test.tarball, &calls))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left %v", test.name, left)
		}
	}
}

func TestInstallSaysWhatNpmSaid(t *testing.T) {
	r := release{name: "lib"}
	said := errors.New("404")
	_, err := r.install(t.Context(), t.TempDir(), &strings.Builder{}, func(context.Context, string, string) (string, error) { return "", said })
	if !errors.Is(err, said) || err.Error() != "fetch lib@"+Version+": 404" {
		t.Errorf("got %v", err)
	}
}

// The real download is 180 MB, so tests only check that what is installed is
// what is pinned, whenever Install put it there.
func TestInstalledEngineIsThePinnedOne(t *testing.T) {
	path := libraryPath(t)
	if _, err := os.Stat(path + ".release"); errors.Is(err, os.ErrNotExist) {
		t.Logf("%s was not put there by Install", path)
		return
	}
	var progress strings.Builder
	if got, err := Install(t.Context(), filepath.Dir(path), &progress); err != nil || got != path || !strings.Contains(progress.String(), "already") {
		t.Errorf("got %q, %v, %q", got, err, progress.String())
	}
}
