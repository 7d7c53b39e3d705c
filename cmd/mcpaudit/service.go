package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/mcpaudit/mcpaudit/ingest/client"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// serviceFlag adds the flags that say how the service is reached. None takes a key
// itself: everybody on the machine sees what a command was called with.
func (s *surroundings) serviceFlag(cmd *cobra.Command) *client.Config {
	to := client.FromEnv(s.env, s.home)
	f := cmd.PersistentFlags()
	f.StringVar(&to.Address, "service", to.Address, "address of the service's gRPC port ($MCPAUDIT_SERVICE)")
	f.Var(&keyFlag{&to, to.KeyFile}, "api-key-file", "file with the API key or token to show the service; its text may be in $MCPAUDIT_API_KEY instead ($MCPAUDIT_API_KEY_FILE)")
	s.tlsFlags(f, &to.TLS)
	return &to
}

// tlsFlags add what TLS to the service needs; t has what the environment says.
func (s *surroundings) tlsFlags(f *pflag.FlagSet, t *client.TLS) {
	f.StringVar(&t.CA, "tls-ca", t.CA, "PEM file of who signs the service's certificate; default: the system's authorities ($MCPAUDIT_TLS_CA)")
	f.StringVar(&t.Cert, "tls-cert", t.Cert, "PEM file of a certificate to show the service instead of a key ($MCPAUDIT_TLS_CERT)")
	f.StringVar(&t.Key, "tls-key", t.Key, "PEM file of that certificate's key ($MCPAUDIT_TLS_KEY)")
}

// keyFlag is a flag for the file of a key. Given, it wins over a key of the environment.
type keyFlag struct {
	to   *client.Config
	file string
}

func (k *keyFlag) String() string { return k.file }
func (k *keyFlag) Type() string   { return "string" }
func (k *keyFlag) Set(file string) error {
	k.file, k.to.KeyFile, k.to.Key = file, file, ""
	return nil
}

// service is a connection to the service for one command.
type service struct {
	conn    *grpc.ClientConn
	query   pb.QueryServiceClient
	doing   string // what the command does, for its errors
	address string
	to      client.Config
	filter  string // as it was typed
}

// dial prepares a connection; nothing is sent yet. Close its conn. filter is the one that
// was typed, for errors that show a place in it.
func dial(doing string, to client.Config, filter string, more ...grpc.DialOption) (*service, error) {
	if err := to.Check(); err != nil { // here, for a call would say it in gRPC's words
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	options, err := to.DialOptions()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	options = append(options, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	conn, err := grpc.NewClient(to.Address, append(options, more...)...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", doing, err)
	}
	return &service{conn: conn, query: pb.NewQueryServiceClient(conn), doing: doing, address: to.Address, to: to, filter: filter}, nil
}

// unreachable says whether a call's error means that nobody answers.
func unreachable(err error) bool {
	st := status.Convert(err)
	return st.Code() == codes.Unavailable && strings.Contains(st.Message(), "connection")
}

// explain turns a call's error into what a person needs.
func (c *service) explain(err error) error {
	st := status.Convert(err)
	if what, refused := c.to.Refused(err); refused {
		return fmt.Errorf("%s: %s", c.doing, printable(what, 2000))
	}
	if why := c.handshake(st); why != "" {
		return fmt.Errorf("%s: the service at %s is there, and %s", c.doing, c.address, why)
	}
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

// handshake says what is wrong with TLS, when that is why a call failed.
func (c *service) handshake(st *status.Status) string {
	const tlsFailed = "authentication handshake failed: "
	_, why, failed := strings.Cut(st.Message(), tlsFailed)
	switch {
	case st.Code() != codes.Unavailable:
		return ""
	case failed && strings.Contains(why, "first record does not look like a TLS handshake"):
		return "it does not speak TLS; leave out --tls-ca and what else is set of TLS"
	case failed:
		return "TLS fails: " + printable(strings.Trim(why, `"`), 300) + "; name its authority with --tls-ca, or check the name that its certificate is for ($MCPAUDIT_TLS_NAME)"
	case !c.to.Secure() && strings.Contains(st.Message(), "error reading server preface"):
		return "it does not speak plaintext; if it speaks TLS, name its authority with --tls-ca"
	}
	return ""
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
