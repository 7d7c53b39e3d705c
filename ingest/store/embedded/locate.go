package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// libraryName is the same on every platform.
const libraryName = "libchdb.so"

// ErrNotInstalled says that no engine library was found.
var ErrNotInstalled = errors.New("the embedded engine is not installed: run `mcpaudit engine install`, or set MCPAUDIT_ENGINE to the path of libchdb.so")

// systemDirs are searched after the caller's.
var systemDirs = []string{"/usr/local/lib", "/usr/lib"}

// Locate returns the path of the engine library. explicit, when not empty, is
// the user's choice: the library or the folder it is in, and nothing else is
// tried. Otherwise dirs are searched in order, then /usr/local/lib and
// /usr/lib. The error is [ErrNotInstalled] when there is none.
func Locate(explicit string, dirs ...string) (string, error) {
	if explicit != "" {
		info, err := os.Stat(explicit)
		if err == nil && info.IsDir() {
			explicit = filepath.Join(explicit, libraryName)
			_, err = os.Stat(explicit)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find engine %q: there is no such file; %w", explicit, ErrNotInstalled)
		}
		if err != nil {
			return "", fmt.Errorf("find engine: %w", err)
		}
		return explicit, nil
	}
	for _, dir := range append(append([]string(nil), dirs...), systemDirs...) {
		if dir == "" {
			continue
		}
		path := filepath.Join(dir, libraryName)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return path, nil
		}
	}
	return "", ErrNotInstalled
}
