// Package profile reads what is to be redacted beyond the built-in rules from a
// YAML file of its owner.
package profile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/mcpaudit/mcpaudit/ingest/redact"
)

// file is a profile as YAML has it; what it does not set is as in
// redact.DefaultProfile. The fields mean what those of redact.Profile mean.
type file struct {
	Name         string          `yaml:"name"`
	KeyNames     []string        `yaml:"key_names"`
	AllowKeys    []string        `yaml:"allow_keys"`
	Pseudonyms   []string        `yaml:"pseudonyms"`
	Tools        map[string]tool `yaml:"tools"`
	MaxString    int             `yaml:"max_string"`
	MaxArguments int             `yaml:"max_arguments"`
	MaxResult    int             `yaml:"max_result"`
}

type tool struct {
	Keep      []string `yaml:"keep"`
	Digest    []string `yaml:"digest"`
	Drop      []string `yaml:"drop"`
	DropAll   bool     `yaml:"drop_all"`
	DigestAll bool     `yaml:"digest_all"`
}

// Read reads the profile in a file, "" for the default one. Its version is made of
// the file's contents, so that an event tells which rules it was redacted by.
// Unknown keys are errors: a misspelt list would redact nothing.
func Read(name string) (redact.Profile, error) {
	p := redact.DefaultProfile()
	if name == "" {
		return p, nil
	}
	const most = 1 << 20
	f, err := os.Open(name)
	if err != nil {
		return p, fmt.Errorf("read redaction profile: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return p, fmt.Errorf("read redaction profile %s: %w", name, err)
	}
	if len(text) > most {
		return p, fmt.Errorf("read redaction profile %s: it has more than %d bytes", name, most)
	}
	var y file
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&y); err != nil && !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("read redaction profile %s: %s", name, plain(err))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("read redaction profile %s: it has more than one document", name)
	}
	sum := sha256.Sum256(text)
	_, rules, _ := strings.Cut(p.Version, "+")
	p.Name, p.Version = y.Name, hex.EncodeToString(sum[:4])+"+"+rules
	if p.Name == "" {
		p.Name = strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
	}
	p.KeyNames, p.AllowKeys, p.Pseudonyms = y.KeyNames, y.AllowKeys, append(p.Pseudonyms, y.Pseudonyms...)
	p.MaxString, p.MaxArguments, p.MaxResult = y.MaxString, y.MaxArguments, y.MaxResult
	p.Tools = make(map[string]redact.ToolRules, len(y.Tools))
	for pattern, t := range y.Tools {
		p.Tools[pattern] = redact.ToolRules(t)
	}
	// A profile that can't be used is found here, where its file is known.
	if _, err := redact.New(p, make([]byte, 32)); err != nil {
		return p, fmt.Errorf("read redaction profile %s: %w", name, err)
	}
	return p, nil
}

// plain is a YAML error without the names of Go's types.
func plain(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:\n  ")
	text = strings.ReplaceAll(text, "\n  ", "; ")
	for _, t := range []string{" in type profile.file", " in type profile.tool"} {
		text = strings.ReplaceAll(text, t, "")
	}
	return text
}
