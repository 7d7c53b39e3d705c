package alerts

import (
	"encoding/json"
	"fmt"
	"io/fs"
)

// PanelsOf are the numbers of a folder's dashboards' panels: uid of the dashboard, title of
// the panel. Panels in rows are among them.
func PanelsOf(dashboards fs.FS) (map[string]map[string]int, error) {
	names, err := fs.Glob(dashboards, "*.json")
	if err != nil {
		return nil, err
	}
	type panel struct {
		ID     int             `json:"id"`
		Type   string          `json:"type"`
		Title  string          `json:"title"`
		Panels json.RawMessage `json:"panels"`
	}
	out := map[string]map[string]int{}
	for _, name := range names {
		text, err := fs.ReadFile(dashboards, name)
		if err != nil {
			return nil, err
		}
		var board struct {
			UID    string  `json:"uid"`
			Panels []panel `json:"panels"`
		}
		if err := json.Unmarshal(text, &board); err != nil {
			return nil, fmt.Errorf("read dashboard %s: %w", name, err)
		}
		of := map[string]int{}
		for todo := board.Panels; len(todo) > 0; todo = todo[1:] {
			p := todo[0]
			if p.Type != "row" && p.Title != "" {
				of[p.Title] = p.ID
			}
			var inner []panel
			if len(p.Panels) > 0 && json.Unmarshal(p.Panels, &inner) == nil {
				todo = append(todo, inner...)
			}
		}
		out[board.UID] = of
	}
	return out, nil
}
