package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// measures are what groups may be ordered by, the largest first.
var measures = []string{"count", "errors", "denials", "bytes", "p50", "p95", "p99"}

// maxGroups is the most that the service returns.
const maxGroups = 10000

func eventsStats(s *surroundings, reach *client.Config) *cobra.Command {
	var by []string
	var interval string
	var limit int
	var asJSON bool
	orderBy := choice{value: new(string), words: measures}
	cmd := &cobra.Command{
		Use: "stats [FILTER]", Short: "Count and measure events in groups", Args: cobra.MaximumNArgs(1), ValidArgsFunction: noFiles,
		Long: `Count and measure events in groups: how many there are, how many failed or were
denied, how many bytes went both ways, and how long half, 95 % and 99 % of the calls
took at most. With --interval, see how that changes: a line for each group, or one
for each interval when there are no groups. ` + filterHelp,
		Example: `  mcpaudit events stats --by server,target --since 7d
  mcpaudit events stats 'outcome != "success"' --by outcome,error_code
  mcpaudit events stats --by principal --order-by denials --limit 10
  mcpaudit events stats --by server --interval 1h --since 24h
  mcpaudit events stats 'kind = "tool_call"' --interval 1d --json`,
	}
	cmd.Flags().StringSliceVar(&by, "by", nil, "fields whose values make the groups, at most three with commas between; a label is labels.KEY")
	cmd.Flags().StringVar(&interval, "interval", "", "also group by time, in steps such as 5m, 1h or 1d")
	cmd.Flags().Var(&orderBy, "order-by", "what the first groups have most of: "+strings.Join(measures, ", ")+"; default count")
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "groups to show, up to 10000")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, for each group and interval")
	within := periodFlags(cmd)
	completeList(cmd, "by", groupFields())
	completeWords(cmd, "order-by", measures...)
	completeWords(cmd, "interval", "1m", "5m", "15m", "1h", "6h", "1d", "7d")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		const doing = "count events"
		typed := strings.Join(args, "")
		filter, err := within.narrow(typed, s.now())
		if err != nil {
			return fmt.Errorf("%s: %w", doing, err)
		}
		if limit < 1 || limit > maxGroups {
			return fmt.Errorf("%s: --limit is %d, must be from 1 to %d", doing, limit, maxGroups)
		}
		req := &pb.AggregateEventsRequest{Filter: filter, OrderBy: *orderBy.value, Limit: int32(limit)}
		for _, name := range by {
			req.GroupBy = append(req.GroupBy, strings.TrimSpace(name))
		}
		if len(req.GroupBy) > 3 {
			return fmt.Errorf("%s: --by has %d fields, at most three are taken", doing, len(req.GroupBy))
		}
		st := stats{s: s, by: req.GetGroupBy(), orderBy: cmp.Or(*orderBy.value, "count"), limit: limit}
		if interval != "" {
			if st.step, err = length(interval); err != nil || st.step < time.Second || st.step > 366*24*time.Hour {
				return fmt.Errorf("%s: --interval is %q; name a length from 1s to 366d, such as 5m, 1h or 1d", doing, interval)
			}
			// Which groups are the largest is known when all intervals are.
			req.Interval, req.Limit = durationpb.New(st.step), maxGroups
			if st.from, st.to, err = within.bounds(s.now()); err != nil {
				return fmt.Errorf("%s: %w", doing, err)
			}
		}
		c, err := dial(doing, *reach, typed)
		if err != nil {
			return err
		}
		defer c.conn.Close()
		resp, err := c.query.AggregateEvents(cmd.Context(), req)
		if err != nil {
			return c.explain(err)
		}
		if err := st.print(resp.GetGroups(), asJSON); err != nil {
			return err
		}
		switch {
		case resp.GetTruncated() && st.step > 0:
			fmt.Fprintf(s.stderr, "mcpaudit: %s: there are more than %d groups and intervals; the latest are left out. Take a longer --interval, a later --since or a narrower filter\n", doing, maxGroups)
		case resp.GetTruncated():
			fmt.Fprintf(s.stderr, "mcpaudit: %s: there are more than these %s; raise --limit\n", doing, count(len(resp.GetGroups()), "group"))
		}
		return nil
	}
	return cmd
}

// stats prints groups.
type stats struct {
	s        *surroundings
	by       []string
	orderBy  string
	limit    int
	step     time.Duration // of the intervals; 0 without them
	from, to time.Time     // of the period; zero where it has no bound
}

func (st *stats) print(groups []*pb.Group, asJSON bool) error {
	var all []*series
	if st.step > 0 {
		all = st.series(groups)
	}
	switch {
	case asJSON:
		return st.printJSON(groups, all)
	case len(groups) == 0 || len(groups) == 1 && groups[0].GetCount() == 0:
		return writeLine(st.s.stdout, "no events match")
	case st.step == 0:
		return st.printGroups(groups)
	case len(st.by) == 0:
		return st.printIntervals(groups)
	}
	return st.printSeries(all)
}

// printJSON prints groups as they came; with intervals, those of the series that
// are shown.
func (st *stats) printJSON(groups []*pb.Group, shown []*series) error {
	t := newTable(st.s.screen(st.s.stdout))
	wanted := map[string]bool{}
	for _, one := range shown {
		wanted[one.name()] = true
	}
	for _, g := range groups {
		if st.step > 0 && !wanted[strings.Join(g.GetKeys(), "\x00")] {
			continue
		}
		if err := writeJSON(t.out, g); err != nil {
			return err
		}
	}
	return t.flush()
}

const barWidth = 16

func (st *stats) keyColumns() []column {
	var columns []column
	for _, name := range st.by {
		columns = append(columns, column{head: strings.ToUpper(name), most: 48})
	}
	return columns
}

func keyCells(keys []string) []cell {
	var cells []cell
	for _, k := range keys {
		if k == "" {
			cells = append(cells, cell{"(none)", dim})
			continue
		}
		cells = append(cells, cell{text: k})
	}
	return cells
}

// measureColumns are the columns of one group's measures.
func measureColumns() []column {
	return []column{{head: "COUNT", most: 20, right: true}, {head: "", most: barWidth}, {head: "ERRORS", most: 20, right: true}, {head: "DENIED", most: 20, right: true},
		{head: "BYTES", most: 12, right: true}, {head: "P50", most: 12, right: true}, {head: "P95", most: 12, right: true}, {head: "P99", most: 12, right: true}}
}

func measureCells(g *pb.Group, largest uint64) []cell {
	return []cell{{text: fmt.Sprint(g.GetCount())}, {bar(float64(g.GetCount()), float64(largest), barWidth), cyan},
		alarming(g.GetErrors(), red), alarming(g.GetDenials(), alarm), {text: bytesText(g.GetRequestBytes() + g.GetResponseBytes())},
		{text: took(g.GetP50().AsDuration())}, {text: took(g.GetP95().AsDuration())}, {text: took(g.GetP99().AsDuration())}}
}

func largestCount(groups []*pb.Group) uint64 {
	largest := uint64(0)
	for _, g := range groups {
		largest = max(largest, g.GetCount())
	}
	return largest
}

func (st *stats) printGroups(groups []*pb.Group) error {
	t := newTable(st.s.screen(st.s.stdout), append(st.keyColumns(), measureColumns()...)...)
	largest := largestCount(groups)
	for _, g := range groups {
		if err := t.add(append(keyCells(g.GetKeys()), measureCells(g, largest)...)...); err != nil {
			return err
		}
	}
	return t.flush()
}

// printIntervals prints a line for each interval; several without events are one.
func (st *stats) printIntervals(groups []*pb.Group) error {
	clock := st.s.clock()
	t := newTable(st.s.screen(st.s.stdout), append([]column{{head: clock.head("FROM"), most: 28}}, measureColumns()...)...)
	largest := largestCount(groups)
	for i, g := range groups {
		if i > 0 {
			between := int(g.GetStartTime().AsTime().Sub(groups[i-1].GetStartTime().AsTime())/st.step) - 1
			if between > 0 {
				if err := t.note(dim, "    "+count(between, "interval")+" without events"); err != nil {
					return err
				}
			}
		}
		if err := t.add(append([]cell{{text: clock.second(g.GetStartTime().AsTime())}}, measureCells(g, largest)...)...); err != nil {
			return err
		}
	}
	return t.flush()
}

// series is what a group was over time.
type series struct {
	keys   []string
	groups []*pb.Group // by time
	sort   float64     // what series are ordered by
}

func (o *series) name() string { return strings.Join(o.keys, "\x00") }

// series gathers the intervals of each group: the largest groups, at most limit.
func (st *stats) series(groups []*pb.Group) []*series {
	var all []*series
	known := map[string]*series{}
	for _, g := range groups {
		name := strings.Join(g.GetKeys(), "\x00")
		one := known[name]
		if one == nil {
			one = &series{keys: g.GetKeys()}
			known[name], all = one, append(all, one)
		}
		one.groups = append(one.groups, g)
		switch v := st.measure(g); {
		case strings.HasPrefix(st.orderBy, "p"): // quantiles don't add up
			one.sort = max(one.sort, v)
		default:
			one.sort += v
		}
	}
	slices.SortStableFunc(all, func(a, b *series) int {
		return cmp.Or(cmp.Compare(b.sort, a.sort), slices.Compare(a.keys, b.keys))
	})
	return all[:min(len(all), st.limit)]
}

func (st *stats) measure(g *pb.Group) float64 {
	switch st.orderBy {
	case "errors":
		return float64(g.GetErrors())
	case "denials":
		return float64(g.GetDenials())
	case "bytes":
		return float64(g.GetRequestBytes() + g.GetResponseBytes())
	case "p50":
		return g.GetP50().AsDuration().Seconds()
	case "p95":
		return g.GetP95().AsDuration().Seconds()
	case "p99":
		return g.GetP99().AsDuration().Seconds()
	}
	return float64(g.GetCount())
}

// printSeries prints a line for each group: its counts over time as heights, and
// in numbers. Heights of all groups have one scale.
func (st *stats) printSeries(all []*series) error {
	const mostColumns = 60
	first, last := st.window(all)
	intervals := int(last.Sub(first)/st.step) + 1
	each := (intervals + mostColumns - 1) / mostColumns // intervals in one column
	width := (intervals + each - 1) / each
	lines := make([][]float64, len(all))
	tallest := 0.0
	for i, one := range all {
		lines[i] = make([]float64, width)
		for _, g := range one.groups {
			at := int(g.GetStartTime().AsTime().Sub(first)/st.step) / each
			if at >= 0 && at < width {
				lines[i][at] += float64(g.GetCount())
				tallest = max(tallest, lines[i][at])
			}
		}
	}
	clock := st.s.clock()
	t := newTable(st.s.screen(st.s.stdout), append(st.keyColumns(), column{head: "COUNT", most: 20, right: true}, column{head: "OVER TIME", most: mostColumns},
		column{head: "MOST", most: 20, right: true}, column{head: "LAST", most: 20, right: true}, column{head: "ERRORS", most: 20, right: true}, column{head: "DENIED", most: 20, right: true})...)
	for i, one := range all {
		var sum pb.Group
		for _, g := range one.groups {
			sum.Count, sum.Errors, sum.Denials = sum.GetCount()+g.GetCount(), sum.GetErrors()+g.GetErrors(), sum.GetDenials()+g.GetDenials()
		}
		err := t.add(append(keyCells(one.keys), cell{text: fmt.Sprint(sum.GetCount())}, cell{sparkline(lines[i], tallest), cyan},
			cell{text: fmt.Sprint(int(slices.Max(lines[i])))}, cell{text: fmt.Sprint(int(lines[i][width-1]))}, alarming(sum.GetErrors(), red), alarming(sum.GetDenials(), alarm))...)
		if err != nil {
			return err
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	end := first.Add(st.step * time.Duration(each*width))
	return writeLine(st.s.stdout, fmt.Sprintf("over time: %s of %s each, from %s to %s %s", count(width, "column"),
		lengthText(st.step*time.Duration(each)), clock.second(first), clock.second(end), clock.zone))
}

// window is the first and the last interval that is drawn: those of the period,
// or where it has no bounds those with events.
func (st *stats) window(all []*series) (first, last time.Time) {
	for _, one := range all {
		a, b := one.groups[0].GetStartTime().AsTime(), one.groups[len(one.groups)-1].GetStartTime().AsTime()
		if first.IsZero() || a.Before(first) {
			first = a
		}
		if b.After(last) {
			last = b
		}
	}
	if !st.from.IsZero() {
		first = st.interval(st.from)
		to := st.s.now()
		if !st.to.IsZero() {
			to = st.to.Add(-1)
		}
		if end := st.interval(to); end.After(last) {
			last = end
		}
	}
	return first, last
}

// interval is the start of the interval that has a time, as the service counts
// them: from 1970.
func (st *stats) interval(t time.Time) time.Time {
	step := st.step.Microseconds()
	return time.UnixMicro(t.UnixMicro() / step * step)
}

// lengthText is a length without the zeros that time.Duration prints.
func lengthText(d time.Duration) string {
	if d%(24*time.Hour) == 0 && d > 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// bytesText is a number of bytes as people say it.
func bytesText(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 5 {
		value, prefix = value/unit, prefix+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTPE"[prefix])
}
