package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/emit"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

const defaultService = "127.0.0.1:4777"

func (s *surroundings) serviceFlag(cmd *cobra.Command) *string {
	address := s.env("MCPAUDIT_SERVICE")
	if address == "" {
		address = defaultService
	}
	return cmd.PersistentFlags().String("service", address, "address of the service's gRPC port ($MCPAUDIT_SERVICE)")
}

// service is a connection to the service for one command.
type service struct {
	conn    *grpc.ClientConn
	query   pb.QueryServiceClient
	doing   string // what the command does, for its errors
	address string
	filter  string // as it was typed
}

// dial prepares a connection; nothing is sent yet. Close its conn.
func dial(doing, address, filter string, more ...grpc.DialOption) (*service, error) {
	if err := emit.Plaintext(address); err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	conn, err := grpc.NewClient(address, append(more, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return &service{conn: conn, query: pb.NewQueryServiceClient(conn), doing: doing, address: address, filter: filter}, nil
}

// unreachable says whether a call's error means that nobody answers.
func unreachable(err error) bool {
	st := status.Convert(err)
	return st.Code() == codes.Unavailable && strings.Contains(st.Message(), "connection")
}

// explain turns a call's error into what a person needs.
func (c *service) explain(err error) error {
	st := status.Convert(err)
	if unreachable(err) {
		return fmt.Errorf("%s: no service answers at %s; start one with 'mcpaudit serve', or name it with --service", c.doing, c.address)
	}
	if st.Code() == codes.Canceled {
		return fmt.Errorf("%s: interrupted", c.doing)
	}
	// The API's names of what flags gave.
	message := printable(st.Message(), 2000)
	for _, name := range []struct{ api, flag string }{{"order_by:", "--order-by"}, {"read_mask:", "--fields"}, {"group_by:", "--by"}} {
		if rest, ok := strings.CutPrefix(message, name.api); ok {
			message = name.flag + ":" + rest
		}
	}
	if at := filterPosition.FindStringSubmatch(message); at != nil && st.Code() == codes.InvalidArgument {
		if position, err := strconv.Atoi(at[1]); err == nil {
			if end := utf8.RuneCountInString(c.filter) + 1; position > end { // in what a flag added: what was typed ends too early
				position = end
				message = fmt.Sprintf("filter, character %d: ", position) + strings.TrimPrefix(message, at[0])
			}
			message += "\n" + pointAt(c.filter, position)
		}
	}
	return fmt.Errorf("%s: %s", c.doing, message)
}

// filterPosition is how the service names a place in a filter, in characters from 1.
var filterPosition = regexp.MustCompile(`^filter, character (\d+): `)

// pointAt shows the line of a filter that has a place, counted in characters from
// 1, and a caret under it. A place behind the filter is its end.
func pointAt(filter string, position int) string {
	const around = 60 // columns of the filter on each side
	characters := []rune(filter)
	at := min(max(position-1, 0), len(characters))
	before, after := string(characters[:at]), string(characters[at:])
	before = before[strings.LastIndexByte(before, '\n')+1:]
	after, _, _ = strings.Cut(after, "\n")
	if runes := []rune(before); len(runes) > around {
		before = "…" + string(runes[len(runes)-around+1:])
	}
	before = printable(before, 2*around)
	return "  " + before + printable(after, around) + "\n  " + strings.Repeat(" ", textWidth(before)) + "^"
}
