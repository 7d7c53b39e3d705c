// Command example is an MCP server of a small library, audited with one line.
package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/mcpaudit/mcpaudit/ingest/emit/gosdk"
)

type library struct {
	mu   sync.Mutex
	lent map[string]string // book -> reader
}

var books = []string{"The Left Hand of Darkness", "Solaris", "Kindred", "Invisible Cities"}

type query struct {
	Words string `json:"words" jsonschema:"words of the title"`
}

type found struct {
	Books []string `json:"books"`
}

func (l *library) find(_ context.Context, _ *mcp.CallToolRequest, q query) (*mcp.CallToolResult, found, error) {
	out := found{Books: []string{}}
	for _, b := range books {
		if strings.Contains(strings.ToLower(b), strings.ToLower(q.Words)) {
			out.Books = append(out.Books, b)
		}
	}
	return nil, out, nil
}

type loan struct {
	Book   string `json:"book" jsonschema:"title of the book"`
	Reader string `json:"reader" jsonschema:"who takes it"`
}

func (l *library) lend(_ context.Context, _ *mcp.CallToolRequest, in loan) (*mcp.CallToolResult, any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if reader, ok := l.lent[in.Book]; ok {
		return nil, nil, fmt.Errorf("%q is lent to %s", in.Book, reader)
	}
	l.lent[in.Book] = in.Reader
	return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "enjoy it"}}}, nil, nil
}

func main() {
	server := mcp.NewServer(&mcp.Implementation{Name: "library", Version: "1.0.0"}, nil)
	l := &library{lent: map[string]string{}}
	mcp.AddTool(server, &mcp.Tool{Name: "find_books", Description: "Finds books by their title",
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: true}}, l.find)
	mcp.AddTool(server, &mcp.Tool{Name: "lend_book", Description: "Lends a book to a reader"}, l.lend)

	defer gosdk.Audit(server, nil).Close()

	if err := server.Run(context.Background(), &mcp.StdioTransport{}); err != nil {
		log.Print(err)
	}
}
