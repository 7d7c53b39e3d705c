package export

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/mcpaudit/mcpaudit/ingest/event"
)

// Version of the bundle: of its manifest, its proofs and the texts of its formats.
const Version = 1

const (
	manifestFile  = "manifest.txt"
	logsFile      = "logs.json"
	manifestTitle = "mcpaudit export v"
)

// Bounds of what is read of a bundle before anything of it is known.
const (
	maxManifest = 64 << 20
	maxLogs     = 64 << 20
)

// Manifest says what a bundle is. Its text, the title and JSON, is signed.
type Manifest struct {
	// Schema of the events; see event.Schema.
	Schema int `json:"schema"`
	// Service that made it, and its version.
	Service string `json:"service"`
	// MadeAt is when the export was begun, RFC 3339.
	MadeAt string `json:"made_at"`
	By     string `json:"by"`
	Reason string `json:"reason"`
	// Filter is empty when everything was asked for.
	Filter string `json:"filter"`
	// Tenants, when who asked may see these alone: the bundle has events of no other,
	// whatever the filter says.
	Tenants []string `json:"tenants,omitempty"`
	Formats []string `json:"formats"`
	// Completeness is everything or filtered.
	Completeness string `json:"completeness"`
	// Events in the bundle, and entries of logs that are proven in it.
	Events  uint64 `json:"events"`
	Entries uint64 `json:"entries"`
	// Logs as they were when the export was begun, oldest first.
	Logs []ManifestLog `json:"logs"`
	// Files are all but the manifest itself.
	Files []File `json:"files"`
}

// ManifestLog is what a manifest says of one log.
type ManifestLog struct {
	LogID  string `json:"log_id"`
	Size   uint64 `json:"size"`   // entries
	Root   string `json:"root"`   // of its tree, hex
	Events uint64 `json:"events"` // of the log in the bundle
}

// File is one file of a bundle.
type File struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // hex
	Bytes  uint64 `json:"bytes"`
	Events uint64 `json:"events"` // 0 for files that have none
}

// The two sorts of completeness.
const (
	everything = "everything"
	filtered   = "filtered"
)

// asked says in words what a bundle that has not everything has.
func (m *Manifest) asked() string {
	what := "the filter " + m.Filter
	if m.Filter == "" {
		what = "no filter"
	}
	if len(m.Tenants) > 0 {
		names := make([]string, len(m.Tenants))
		for i, name := range m.Tenants {
			names[i] = strconv.Quote(name)
		}
		what += " and the tenants " + strings.Join(names, ", ") + ", all that who asked may see,"
	}
	return what
}

// text is what is signed. One manifest has one text.
func (m *Manifest) text() (string, error) {
	var b bytes.Buffer
	b.WriteString(manifestTitle + strconv.Itoa(Version) + "\n")
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(m); err != nil {
		return "", fmt.Errorf("write manifest: %w", err)
	}
	return b.String(), nil
}

// parseManifest reads a manifest's text, whose signature was checked.
func parseManifest(text string) (*Manifest, error) {
	m := &Manifest{}
	if err := parseTitled(text, m); err != nil {
		return nil, fmt.Errorf("read %s: %w", manifestFile, err)
	}
	if again, err := m.text(); err != nil || again != text {
		return nil, fmt.Errorf("read %s: it is not as mcpaudit writes it", manifestFile)
	}
	if m.Schema != event.Schema {
		return nil, fmt.Errorf("read %s: its events are of schema %d, this program knows %d; use a newer mcpaudit", manifestFile, m.Schema, event.Schema)
	}
	if m.Completeness != everything && m.Completeness != filtered {
		return nil, fmt.Errorf("read %s: there is no completeness %q", manifestFile, event.ClipText(m.Completeness, 40))
	}
	if m.Completeness == everything && (m.Filter != "" || len(m.Tenants) > 0) {
		return nil, fmt.Errorf("read %s: it says that the bundle has everything, and that it has not", manifestFile)
	}
	seen := map[string]bool{manifestFile: true}
	for _, f := range m.Files {
		if seen[f.Name] || !ValidName(f.Name) {
			return nil, fmt.Errorf("read %s: %q is no name of a file of it", manifestFile, event.ClipText(f.Name, 100))
		}
		seen[f.Name] = true
	}
	if len(m.Formats) == 0 {
		return nil, fmt.Errorf("read %s: it names no format", manifestFile)
	}
	for i, f := range m.Formats {
		if !slices.Contains(Formats, f) || slices.Contains(m.Formats[:i], f) {
			return nil, fmt.Errorf("read %s: there is no format %q; use a newer mcpaudit", manifestFile, event.ClipText(f, 40))
		}
	}
	return m, nil
}

// parseTitled reads the JSON below the title, strictly.
func parseTitled(text string, into any) error {
	title, body, _ := strings.Cut(text, "\n")
	number, ok := strings.CutPrefix(title, manifestTitle)
	version, err := strconv.Atoi(number)
	if !ok || err != nil {
		return errors.New("it is not the manifest of an mcpaudit export")
	}
	if version > Version {
		return fmt.Errorf("the bundle is of version %d, this program knows up to %d; use a newer mcpaudit", version, Version)
	}
	return parseStrict([]byte(body), into)
}

// parseStrict reads one JSON value that has no names but those of into.
func parseStrict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if d.More() {
		return errors.New("there is more behind its JSON")
	}
	return nil
}

// ValidName says that a name is that of a file of a bundle: no path.
func ValidName(name string) bool {
	if name == "" || len(name) > 100 || name[0] == '.' {
		return false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// LogEvidence is what a bundle has of one log beside the proofs of its batches.
type LogEvidence struct {
	LogID      string `json:"log_id"`
	Checkpoint string `json:"checkpoint"` // signed note of the log's size and root
	// VerifierKey is the log's first key, Rotations how later ones took over.
	VerifierKey string   `json:"verifier_key"`
	Rotations   []string `json:"rotations"`
	// Tail are the nodes of the log's tree behind the last entry that the bundle
	// has, hex.
	Tail []string `json:"tail"`
}

func appendEvidence(logs []LogEvidence) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(logs); err != nil {
		return nil, fmt.Errorf("write %s: %w", logsFile, err)
	}
	return b.Bytes(), nil
}

func parseEvidence(text []byte) ([]LogEvidence, error) {
	var logs []LogEvidence
	if err := parseStrict(text, &logs); err != nil {
		return nil, fmt.Errorf("read %s: %w", logsFile, err)
	}
	if again, err := appendEvidence(logs); err != nil || !bytes.Equal(again, text) {
		return nil, fmt.Errorf("read %s: it is not as mcpaudit writes it", logsFile)
	}
	return logs, nil
}
