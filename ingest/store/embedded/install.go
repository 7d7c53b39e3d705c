package embedded

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Version is the release of the engine library this package is written for.
const Version = "26.7.3-stable.1"

// release is one platform's package on the npm registry.
type release struct {
	name      string // npm package
	integrity string // the registry's dist.integrity of Version
	size      int64  // of the library, unpacked, in bytes
}

// releases are the pinned packages by GOOS/GOARCH. A new line needs the hash
// from `npm view NAME@VERSION dist.integrity` and a run of this package's
// tests on that platform.
var releases = map[string]release{
	"linux/amd64": {
		name:      "@chdb/lib-linux-x64-gnu",
		integrity: "sha512-XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw==",
		size:      566330096,
	},
}

// Install fetches the pinned engine library with the npm command and puts it
// into dir, which it creates. It returns the library's path. The package is
// refused unless its SHA-512 is the one pinned here. What it does is told to
// progress, a line a step. When dir already has the pinned release, nothing is
// fetched. A crash leaves at most a hidden folder beside a whole library.
func Install(ctx context.Context, dir string, progress io.Writer) (string, error) {
	platform := runtime.GOOS + "/" + runtime.GOARCH
	r, ok := releases[platform]
	if !ok {
		return "", fmt.Errorf("install engine: no package is pinned for %s; put a libchdb.so of %s there by hand and set MCPAUDIT_ENGINE", platform, Version)
	}
	return r.install(ctx, dir, progress, npmPack)
}

// fetchFunc puts the package's tarball into dir and returns its path.
type fetchFunc func(ctx context.Context, dir, spec string) (string, error)

func (r release) install(ctx context.Context, dir string, progress io.Writer, fetch fetchFunc) (string, error) {
	path := filepath.Join(dir, libraryName)
	if r.installed(path) {
		fmt.Fprintf(progress, "engine %s is already at %s\n", Version, path)
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("install engine: %w", err)
	}
	work, err := os.MkdirTemp(dir, ".install-*")
	if err != nil {
		return "", fmt.Errorf("install engine: %w", err)
	}
	defer os.RemoveAll(work)

	spec := r.name + "@" + Version
	fmt.Fprintf(progress, "fetching %s with npm (about 180 MB)\n", spec)
	tarball, err := fetch(ctx, work, spec)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", spec, err)
	}
	fmt.Fprintln(progress, "checking its SHA-512")
	if err := verify(tarball, r.integrity); err != nil {
		return "", fmt.Errorf("verify %s: %w", spec, err)
	}
	fmt.Fprintf(progress, "unpacking %d MB\n", r.size>>20)
	unpacked := filepath.Join(work, libraryName)
	if err := r.extract(tarball, unpacked); err != nil {
		return "", fmt.Errorf("unpack %s: %w", spec, err)
	}
	if err := os.Rename(unpacked, path); err != nil {
		return "", fmt.Errorf("install engine: %w", err)
	}
	// The marker is last: without it the next Install starts over.
	if err := os.WriteFile(path+".release", []byte(r.marker()), 0o644); err != nil {
		return "", fmt.Errorf("install engine: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return "", fmt.Errorf("install engine: %w", err)
	}
	fmt.Fprintf(progress, "engine %s is at %s\n", Version, path)
	return path, nil
}

func (r release) marker() string {
	return fmt.Sprintf("%s %s\n%s\n", r.name, Version, r.integrity)
}

// installed reports whether path is this release: by the marker written after
// the library was whole, and its size. Hashing 566 MB at every start would
// cost more than it could find.
func (r release) installed(path string) bool {
	marker, err := os.ReadFile(path + ".release")
	if err != nil || string(marker) != r.marker() {
		return false
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == r.size
}

// npmPack leaves registries, proxies and credentials to npm's own settings.
func npmPack(ctx context.Context, dir, spec string) (string, error) {
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", dir, spec)
	cmd.Dir = dir
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return "", errors.New("the npm command is not installed")
		}
		text := complaint.String()
		return "", fmt.Errorf("run npm pack: %w: %s", err, strings.TrimSpace(text[max(0, len(text)-500):]))
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("run npm pack: found %d packages where one was expected", len(found))
	}
	return found[0], nil
}

// verify compares a file with a hash in the form of Subresource Integrity.
func verify(path, integrity string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil)); got != integrity {
		return fmt.Errorf("its hash is %s, pinned is %s", got, integrity)
	}
	return nil
}

// extract writes the tarball's library to path. Other entries are skipped, and
// an entry of another size than the pinned one is refused before it is read.
func (r release) extract(tarball, path string) error {
	f, err := os.Open(tarball)
	if err != nil {
		return err
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for entries := tar.NewReader(unzipped); ; {
		entry, err := entries.Next()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("it has no %s", libraryName)
		}
		if err != nil {
			return err
		}
		if entry.Name != "package/"+libraryName {
			continue
		}
		if entry.Typeflag != tar.TypeReg || entry.Size != r.size {
			return fmt.Errorf("its %s is %d bytes, pinned is a file of %d", libraryName, entry.Size, r.size)
		}
		return writeSynced(path, entries, r.size)
	}
}

func writeSynced(path string, src io.Reader, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.CopyN(f, src, size); err != nil {
		f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
