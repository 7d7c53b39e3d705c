package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/export"
)

// toFolder makes a bundle. Until it is whole, DIR.partial has it in a folder named
// bundle, and beside that resume.json. A crash at any step leaves either that, and
// the same command goes on from it, or DIR, whole.
func (x *exporter) toFolder(ctx context.Context, dir string) error {
	dir = filepath.Clean(dir)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("export: %s is there already; name another folder", dir)
	}
	b := &partialBundle{dir: dir + ".partial", open: map[string]*os.File{}}
	defer b.close()
	req := &pb.ExportEventsRequest{Filter: x.filter, Formats: x.formats, Bundle: true, Reason: x.reason}
	if err := b.begin(x, req); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if len(req.ResumeToken) > 0 {
		if err := x.say("going on with " + b.dir); err != nil {
			return err
		}
	}
	if err := x.receive(ctx, req, b.take); err != nil {
		return fmt.Errorf("%w\nwhat there is so far is in %s; run the same command again to go on", err, b.dir)
	}
	if err := b.sync(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if !x.noVerify {
		if err := x.verify(b.files()); err != nil {
			return err
		}
	}
	if err := errors.Join(os.Rename(b.files(), dir), syncFolderOf(dir)); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return x.say(fmt.Sprintf("%s in %s", count(x.events, "event"), dir))
}

// verify checks the bundle as who gets it will.
func (x *exporter) verify(folder string) error {
	total := x.events
	x.progress.start = x.s.now()
	report, err := export.Verify(os.DirFS(folder), nil, func(events uint64) {
		x.progress.draw(fmt.Sprintf("verifying, %3.0f %%", 100*float64(events)/float64(max(total, 1))))
	})
	x.progress.clear()
	if err != nil {
		return fmt.Errorf("export: the bundle in %s does not verify: %s\nrun 'mcpaudit verify' to see whether the store is as it was sealed", folder, printable(err.Error(), 2000))
	}
	for _, sentence := range report.Proven {
		if err := x.say("verified: " + sentence); err != nil {
			return err
		}
	}
	return nil
}

// partialBundle is a bundle that is not whole yet.
type partialBundle struct {
	dir    string
	resume resumption
	open   map[string]*os.File
}

// resumption is what resume.json holds.
type resumption struct {
	Asked string `json:"asked"` // what the command line asked for
	Token []byte `json:"token,omitempty"`
	// Sizes of the files that were whole when the token came.
	Sizes map[string]int64 `json:"sizes,omitempty"`
}

func (b *partialBundle) files() string { return filepath.Join(b.dir, "bundle") }
func (b *partialBundle) state() string { return filepath.Join(b.dir, "resume.json") }

// begin makes the folder, or finds where the export broke.
func (b *partialBundle) begin(x *exporter, req *pb.ExportEventsRequest) error {
	b.resume.Asked = strings.Join(append([]string{x.typed, x.reason}, x.formats...), "\x00")
	was := resumption{}
	text, err := os.ReadFile(b.state())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.Mkdir(b.dir, 0o700); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s is there, and not of an export that can go on; remove it", b.dir)
			}
			return err
		}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(text, &was); err != nil {
			return fmt.Errorf("read %s: %w; remove the folder to begin anew", b.state(), err)
		}
		if was.Asked != b.resume.Asked {
			return fmt.Errorf("%s is of an export with other flags; give the same ones to go on with it, or remove it to begin anew", b.dir)
		}
	}
	if err := os.MkdirAll(b.files(), 0o700); err != nil {
		return err
	}
	if err := b.keep(was.Sizes); err != nil {
		return err
	}
	b.resume.Token, b.resume.Sizes, req.ResumeToken = was.Token, was.Sizes, was.Token
	return b.save()
}

// keep removes what is not one of these files, whole.
func (b *partialBundle) keep(sizes map[string]int64) error {
	there, err := os.ReadDir(b.files())
	if err != nil {
		return err
	}
	found := 0
	for _, f := range there {
		size, ok := sizes[f.Name()]
		if !ok {
			if err := os.Remove(filepath.Join(b.files(), f.Name())); err != nil {
				return err
			}
			continue
		}
		info, err := f.Info()
		if err != nil {
			return err
		}
		if info.Size() != size {
			return fmt.Errorf("%s was changed; remove %s to begin anew", filepath.Join(b.files(), f.Name()), b.dir)
		}
		found++
	}
	if found != len(sizes) {
		return fmt.Errorf("files of %s are missing; remove it to begin anew", b.dir)
	}
	return nil
}

// take writes one message.
func (b *partialBundle) take(m *pb.ExportEventsResponse) error {
	if name := m.GetFile(); name != "" {
		if !export.ValidName(name) {
			return fmt.Errorf("the service sent a file named %q", name)
		}
		f := b.open[name]
		if f == nil {
			var err error
			if f, err = os.OpenFile(filepath.Join(b.files(), name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
				return err
			}
			b.open[name] = f
		}
		if _, err := f.Write(m.GetData()); err != nil {
			return err
		}
	}
	if len(m.GetResumeToken()) == 0 {
		return nil
	}
	if err := b.sync(); err != nil {
		return err
	}
	b.resume.Token = m.GetResumeToken()
	return b.save()
}

// sync makes the files that are open durable and closes them.
func (b *partialBundle) sync() error {
	if b.resume.Sizes == nil {
		b.resume.Sizes = map[string]int64{}
	}
	for name, f := range b.open {
		info, err := f.Stat()
		if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
			return err
		}
		b.resume.Sizes[name] = info.Size()
		delete(b.open, name)
	}
	return syncFolder(b.files())
}

// save replaces resume.json.
func (b *partialBundle) save() error {
	text, err := json.Marshal(b.resume)
	if err != nil {
		return err
	}
	was, err := os.ReadFile(b.state())
	if err == nil && bytes.Equal(was, text) {
		return nil
	}
	next := b.state() + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, b.state()); err != nil {
		return err
	}
	return syncFolder(b.dir)
}

func (b *partialBundle) close() {
	for _, f := range b.open {
		f.Close()
	}
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncFolderOf(name string) error { return syncFolder(filepath.Dir(name)) }
