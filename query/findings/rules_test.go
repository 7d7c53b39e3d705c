package findings

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/mcpaudit/mcpaudit/detect/rules"
	"github.com/mcpaudit/mcpaudit/ingest"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/scope/scopetest"
)

// ruler has the shipped rules, and says that it reloads them.
type ruler struct {
	set                     rules.Set
	added, changed, removed []string
	err                     error
	reloads                 int
}

func (r *ruler) Rules() rules.Set { return r.set }

func (r *ruler) Reload(context.Context) (added, changed, removed []string, err error) {
	r.reloads++
	return r.added, r.changed, r.removed, r.err
}

func TestTheRulesInForceAreListed(t *testing.T) {
	set, err := rules.Load()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := NewRules(&ruler{set: set}, nil, time.Now, quiet).ListRules(everyone, &pb.ListRulesRequest{})
	if err != nil || len(resp.GetRules()) != len(set) {
		t.Fatalf("%d of %d rules, %v", len(resp.GetRules()), len(set), err)
	}
	for i, r := range resp.GetRules() {
		if r.GetName() != set[i].Name || r.GetTitle() == "" || r.GetDetector() == "" || r.GetSeverity() == "" || r.GetSource() != rules.Shipped {
			t.Errorf("%v", r)
		}
	}
}

// Each reload is an event in the log that names what changed, also one that failed.
func TestAReloadIsInTheLog(t *testing.T) {
	var names []string
	for i := range 500 {
		names = append(names, fmt.Sprintf("rule-with-quite-a-long-name-%d", i))
	}
	r := &ruler{added: []string{"new-one", "new-two"}, removed: names}
	b := &book{}
	s := NewRules(r, b, func() time.Time { return noon }, quiet)
	ctx := as("ada")
	reload := func() (*pb.ReloadRulesResponse, error) { return s.ReloadRules(ctx, &pb.ReloadRulesRequest{By: "ada"}) }
	resp, err := reload()
	if err != nil || strings.Join(resp.GetAdded(), " ") != "new-one new-two" || len(resp.GetRemoved()) != 500 {
		t.Errorf("%v, %v", resp, err)
	}
	labels := map[string]string{}
	for _, l := range b.events[0].Labels {
		labels[l.Key] = l.Value
	}
	if labels["added"] != "new-one, new-two" || !strings.HasPrefix(labels["removed"], "rule-with-quite-a-long-name-0, rule-with") || !strings.HasSuffix(labels["removed"], " more") || labels["changed"] != "" {
		t.Errorf("%v", labels)
	}

	r.err = BadRules{errors.New(`ours.yaml:3: there is no key "witth"; the nearest is with`)}
	_, err = reload()
	refused(t, err, codes.FailedPrecondition, `the rules stay as they are: ours.yaml:3: there is no key "witth"; the nearest is with`)
	r.err = errAway
	_, err = reload()
	refused(t, err, codes.Unavailable, "the rules stay as they are")
	r.err = nil

	// The log is away: nothing is reloaded that it might not hear of. What it did not
	// take at the end it gets first.
	b.fail = func() error { return ingest.ErrUnavailable }
	if _, err := reload(); err != nil {
		t.Error(err) // it was there when it was looked at
	}
	_, err = reload()
	refused(t, err, codes.Unavailable, "the log can't be written to")
	if r.reloads != 4 {
		t.Errorf("%d reloads", r.reloads)
	}
	b.fail = nil
	if _, err := reload(); err != nil {
		t.Error(err)
	}
	want := "rules/reload rules by ada: success\nrules/reload rules by ada: tool_error\nrules/reload rules by ada: tool_error\nrules/reload rules by ada: success\nrules/reload rules by ada: success"
	if got := b.lines(); got != want {
		t.Errorf("%s", got)
	}

	_, err = NewRules(r, nil, time.Now, quiet).ReloadRules(ctx, &pb.ReloadRulesRequest{By: "ada"})
	refused(t, err, codes.FailedPrecondition, "role ingest")
	_, err = s.ReloadRules(scopetest.Of(t.Context(), "acme"), &pb.ReloadRulesRequest{})
	refused(t, err, codes.PermissionDenied, "every tenant")
	if r.reloads != 5 {
		t.Errorf("%d reloads", r.reloads)
	}
}
