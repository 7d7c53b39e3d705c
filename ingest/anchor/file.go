package anchor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/mcpaudit/mcpaudit/ingest/anchor/notes"
	"github.com/mcpaudit/mcpaudit/ingest/ledger"
)

// fileMode lets everybody read: checkpoints are public.
const fileMode = 0o644

// file is a list of notes that is appended to and never otherwise written: it may
// have the file system's append-only attribute. It is opened for each checkpoint,
// so a file that was moved away begins anew.
type file struct{ path string }

func (f *file) String() string { return f.path }

func (f *file) Put(ctx context.Context, checkpoint string) error {
	if err := f.put(ctx, checkpoint); err != nil {
		return fmt.Errorf("append to %s: %w", f.path, reason(err))
	}
	return nil
}

// put appends in one write. A crash in the middle leaves the beginning of a note,
// behind which the next put goes on.
func (f *file) put(ctx context.Context, checkpoint string) error {
	if _, err := ledger.PeekCheckpoint(checkpoint); err != nil {
		return err
	}
	_, err := os.Lstat(f.path)
	fresh := errors.Is(err, os.ErrNotExist)
	// A pipe without a reader would be waited for.
	out, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_RDWR|syscall.O_NONBLOCK, fileMode)
	if err != nil {
		return err
	}
	defer out.Close()
	info, err := out.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	// Another service may append to the same file.
	if err := syscall.Flock(int(out.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("lock it: %w", err)
	}
	if info, err = out.Stat(); err != nil {
		return err
	}
	note := notes.Append(nil, checkpoint)
	tail := make([]byte, min(info.Size(), ledger.MaxCheckpoint))
	if _, err := out.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.HasSuffix(tail, note) { // else an earlier put was written but not known to be durable
		if !notes.IsWhole(tail) {
			note = append([]byte(notes.Resume), note...)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := out.Write(note); err != nil {
			return err
		}
	}
	if err := out.Sync(); err != nil {
		return err
	}
	if fresh {
		return syncFolder(filepath.Dir(f.path))
	}
	return nil
}

// syncFolder makes a new file's name durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (f *file) each(ctx context.Context, found func(string) error) error {
	in, err := os.Open(f.path)
	if err != nil {
		return reason(err)
	}
	defer in.Close()
	return notes.Each(in, func(checkpoint string) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return found(checkpoint)
	})
}

// reason leaves a path out of an error that names it already.
func reason(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
