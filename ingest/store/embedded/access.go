package embedded

import (
	_ "embed"
	"os"
	"path/filepath"
)

// The engine's configuration: one user, who may do with databases, tables and
// views what a store does, and for whom table functions and table engines that
// reach beyond the data folder do not exist. The engine reads it once, when
// the folder is opened.
var (
	//go:embed engine.xml
	serverConfig []byte
	//go:embed users.xml
	usersConfig []byte
)

// writeServerConfig puts the configuration beside the data and returns its path.
func writeServerConfig(path string) (string, error) {
	dir := filepath.Join(path, "mcpaudit")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "users.xml"), usersConfig, 0o600); err != nil {
		return "", err
	}
	config := filepath.Join(dir, "engine.xml")
	return config, os.WriteFile(config, serverConfig, 0o600)
}
