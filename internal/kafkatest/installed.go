package kafkatest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// choice is the environment variable that asks for kfake, insists on a real broker, or
// names the folder of an installed Kafka.
const choice = "MCPAUDIT_KAFKA"

// installed finds the Kafka that deploy/dev/kafka.sh installed: a folder with libs/,
// broker.properties, log4j2.properties and bootstrap.checkpoint.
func installed() (string, error) {
	switch dir := os.Getenv(choice); dir {
	case "", "real":
	case "kfake":
		return "", errors.New(choice + "=kfake")
	default:
		return dir, complete(dir)
	}
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	version, err := pinned(root)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".cache", "kafka", version)
	if complete(dir) != nil {
		return "", errors.New("no Kafka installed (make setup)")
	}
	return dir, nil
}

// complete checks the file that the installation writes last.
func complete(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "bootstrap.checkpoint")); err != nil {
		return fmt.Errorf("find Kafka in %q, which %s names: %w", dir, choice, err)
	}
	return nil
}

// moduleRoot is the folder with go.mod at or above the one that the test runs in.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod at or above the folder of the test")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// pinned is the version of Kafka in deploy/dev/versions.env.
func pinned(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "deploy", "dev", "versions.env"))
	if err != nil {
		return "", fmt.Errorf("read the version of Kafka: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "KAFKA_VERSION="); ok {
			return version, nil
		}
	}
	return "", errors.New("deploy/dev/versions.env names no KAFKA_VERSION")
}
