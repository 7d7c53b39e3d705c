package push

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	"github.com/grafana/grafana-openapi-client-go/client/folders"
	"github.com/grafana/grafana-openapi-client-go/models"
)

func (d *desk) folder(ctx context.Context) (*models.Folder, error) {
	resp, err := d.n.api.Folders.GetFolderByUIDWithParams(folders.NewGetFolderByUIDParamsWithContext(ctx).WithFolderUID(d.cfg.folder()))
	switch {
	case missing(err):
		return nil, nil
	case err != nil:
		return nil, d.reading("folder "+d.cfg.folder(), err)
	}
	return resp.Payload, nil
}

// wantFolder plans our folder. One of the owner's is used as it is.
func (d *desk) wantFolder(ctx context.Context) error {
	have, err := d.folder(ctx)
	if err != nil {
		return err
	}
	d.folderThere = have != nil
	uid := d.cfg.folder()
	switch {
	case have == nil && uid != Folder:
		return fmt.Errorf("use folder %q: Grafana has none with that uid; make it, or leave out --folder for the folder %q, which is made", uid, Folder)
	case have == nil:
		d.plan(Change{Action: Create, Kind: "folder", UID: uid, Name: FolderTitle}, func(ctx context.Context) error {
			_, err := d.n.api.Folders.CreateFolderWithParams(folders.NewCreateFolderParamsWithContext(ctx).WithBody(&models.CreateFolderCommand{UID: uid, Title: FolderTitle}))
			return err
		})
	case uid == Folder && have.Title != FolderTitle:
		if have.ManagedBy != "" {
			return inTheWay("folder", uid, provisioned(string(have.ManagedBy)), "Name another folder with --folder.")
		}
		d.plan(Change{Action: Update, Kind: "folder", UID: uid, Name: FolderTitle, Paths: []string{"title"}}, func(ctx context.Context) error {
			_, err := d.n.api.Folders.UpdateFolderWithParams(folders.NewUpdateFolderParamsWithContext(ctx).WithFolderUID(uid).WithBody(&models.UpdateFolderCommand{Title: FolderTitle, Version: have.Version}))
			return err
		})
	}
	return nil
}

// dropFolder plans to remove our folder, if nothing of others is in it by then: Grafana
// would delete that with it. Whoever puts something there between the look and the
// deletion loses it; Grafana's API has no way to prevent that.
func (d *desk) dropFolder(ctx context.Context) error {
	if d.cfg.folder() != Folder {
		return nil
	}
	have, err := d.folder(ctx)
	if err != nil || have == nil {
		return err
	}
	ours := int64(0)
	for _, s := range d.steps {
		if s.Kind == "dashboard" || s.Kind == "alert rule" {
			ours++
		}
	}
	held, _, err := d.held(ctx)
	if err != nil {
		return d.reading("what is in folder "+Folder, err)
	}
	if held > ours {
		d.note("folder %s stays: others have put something in it", Folder)
		return nil
	}
	d.plan(Change{Action: Remove, Kind: "folder", UID: Folder, Name: have.Title}, func(ctx context.Context) error {
		held, what, err := d.held(ctx)
		switch {
		case err != nil:
			return err
		case held > 0:
			return fmt.Errorf("%w: %s", errStays, what)
		}
		no := false // should rules come in between, Grafana refuses
		_, err = d.n.api.Folders.DeleteFolder(folders.NewDeleteFolderParamsWithContext(ctx).WithFolderUID(Folder).WithForceDeleteRules(&no))
		return err
	})
	return nil
}

// held counts what is in our folder.
func (d *desk) held(ctx context.Context) (n int64, what string, err error) {
	resp, err := d.n.api.Folders.GetFolderDescendantCountsWithParams(folders.NewGetFolderDescendantCountsParamsWithContext(ctx).WithFolderUID(Folder))
	if err != nil {
		return 0, "", err
	}
	var each []string
	for kind, count := range resp.Payload {
		if count < 0 {
			return 0, "", errors.New("count what is in it: Grafana says less than nothing")
		}
		if count > 0 {
			n += count
			each = append(each, fmt.Sprintf("%d %s", count, d.n.clean(kind)))
		}
	}
	sort.Strings(each)
	return n, strings.Join(each, ", "), nil
}

func sorted(list []string) []string {
	sort.Strings(list)
	return list
}
