package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mcpaudit/mcpaudit/ingest/event"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
)

// choice is a flag's value that must be one of a few words.
type choice struct {
	value *string
	words []string
}

// String is the word that is set.
func (c *choice) String() string { return *c.value }

// Type is what help texts call the value.
func (c *choice) Type() string { return "word" }

// Set takes one of the words.
func (c *choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return notOneOf(c.words)
	}
	*c.value = word
	return nil
}

type notOneOf []string

func (n notOneOf) Error() string { return "use one of " + strings.Join(n, ", ") }

// completeWords lets shells complete a flag's value.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	mustRegister(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder)))
}

// completeList lets shells complete the last name of a list with commas.
func completeList(cmd *cobra.Command, flag string, names []string) {
	mustRegister(cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		done := typed[:strings.LastIndexByte(typed, ',')+1]
		var out []string
		for _, name := range names {
			if strings.HasPrefix(done+name, typed) && !slices.Contains(strings.Split(done, ","), name) {
				out = append(out, done+name)
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	}))
}

// mustRegister is for mistakes of this program: a flag that is not there, or
// that is completed twice.
func mustRegister(err error) {
	if err != nil {
		panic(err)
	}
}

// noFiles keeps shells from completing a filter with the names of files.
func noFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// eventFields are the top-level fields of an event.
func eventFields() []string {
	known := (&pb.Event{}).ProtoReflect().Descriptor().Fields()
	names := make([]string, known.Len())
	for i := range names {
		names[i] = string(known.Get(i).Name())
	}
	return names
}

// groupFields are the fields that groups can be made of: those of a filter. A
// label needs its key, which the person knows.
func groupFields() []string {
	var names []string
	for _, c := range event.Columns {
		name, part, nested := strings.Cut(c.Name, ".")
		switch {
		case nested && part != "class":
			continue
		case name == "duration_us":
			name = "duration"
		case name == "labels":
			name = "labels."
		}
		names = append(names, name)
	}
	return names
}
