package receiver

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/mcpaudit/mcpaudit/detect/notify/message"
)

// A Slack webhook, and those that take its form: Mattermost and Rocket.Chat, and
// Discord at a webhook's URL with /slack behind it. Slack shows the blocks; the others
// leave them out and show the text, so the text says what there is to say, in the 2000
// characters that Discord takes.
//
// Names and quotes are put between backticks, where none of them finds a mention, a
// link or an image, and &, < and > are escaped as Slack wants it
// (https://docs.slack.dev/messaging/formatting-message-text). What blocks show as plain
// text has no markup.
type chat struct {
	*target
	url string
}

// Limits of Slack (https://docs.slack.dev/reference/block-kit/blocks) and Discord, in
// characters as they are sent.
const (
	mostHeader   = 150
	mostField    = 2000
	mostText     = 3000
	mostFallback = 1900
	// mostShown findings are shown in detail, with four blocks each: 42 of the 50
	// blocks that a message may have.
	mostShown = 10
)

func newSlack(s Settings) (Sender, error) {
	if s.URL != "" {
		return nil, s.wrong("it has a URL in the settings; who knows the URL of a webhook can write there, so put it into url_file")
	}
	t, u, err := newTarget(s, s.Secret)
	if err != nil {
		return nil, err
	}
	return &chat{target: t, url: u.String()}, nil
}

// Refresh is of Sender.
func (c *chat) Refresh() time.Duration { return 0 }

// Groups is of Sender.
func (c *chat) Groups() bool { return false }

// Send is of Sender.
func (c *chat) Send(ctx context.Context, n *message.Notification) (int, error) {
	defer c.idle()
	m := slackMessage(n)
	return c.do(ctx, mostAnswer, func(ctx context.Context) error {
		return slack.PostWebhookCustomHTTPContext(ctx, c.url, c.client, m)
	}, func(status int, _ error) bool { return status >= 200 && status < 300 })
}

func slackMessage(n *message.Notification) *slack.WebhookMessage {
	never := false
	blocks := []slack.Block{slack.NewHeaderBlock(plain(summary(n), mostHeader))}
	for i := range n.Alerts[:min(len(n.Alerts), mostShown)] {
		blocks = append(blocks, alertBlocks(&n.Alerts[i], len(n.Alerts) > 1)...)
	}
	if more := len(n.Alerts) - mostShown; more > 0 || n.Left > 0 {
		blocks = append(blocks, slack.NewContextBlock("", plain(andMore(max(0, more)+n.Left), mostText)))
	}
	return &slack.WebhookMessage{Text: fallback(n), Blocks: &slack.Blocks{BlockSet: blocks}, UnfurlLinks: &never, UnfurlMedia: &never}
}

// summary is the first line: the finding's title, or what a group has in common.
func summary(n *message.Notification) string {
	if len(n.Alerts) == 1 && n.Left == 0 {
		return firstWords(&n.Alerts[0]) + line(n.Alerts[0].Title, mostHeader)
	}
	var common []string
	for _, name := range []string{"rule", "detector", "severity", "tenant", "server", "principal"} {
		if value := line(n.Labels[name], 60); value != "" {
			common = append(common, name+" "+value)
		}
	}
	text := fmt.Sprintf("%d findings", len(n.Alerts)+n.Left)
	if len(common) > 0 {
		text += ": " + strings.Join(common, ", ")
	}
	return text
}

// firstWords say what has happened when it is not that a finding is new.
func firstWords(a *message.Alert) string {
	if a.What == message.Firing {
		return ""
	}
	words, _ := headline(a)
	return words + ": "
}

func andMore(n int) string {
	if n == 1 {
		return "and 1 more finding"
	}
	return fmt.Sprintf("and %d more findings", n)
}

// alertBlocks are a finding's part of a message: at most four blocks.
func alertBlocks(a *message.Alert, titled bool) []slack.Block {
	var blocks []slack.Block
	if titled {
		blocks = append(blocks, slack.NewSectionBlock(mrkdwn(strings.TrimSuffix(title(a), "\n"), mostText), nil, nil))
	}
	var fields []*slack.TextBlockObject
	if words, by := headline(a); by != "" {
		fields = append(fields, mrkdwn("*"+escape(words)+" by*\n"+code(by, 200), mostField))
	}
	for _, x := range facts(a) {
		fields = append(fields, mrkdwn("*"+x.name+"*\n"+code(x.value, 300), mostField))
	}
	blocks = append(blocks, slack.NewSectionBlock(nil, fields, nil)) // from one, Since, to ten, which is Slack's limit
	reason := line(a.Finding.Reason, 1000)
	if reason == "" { // left out of what this receiver is told
		reason = "The finding says why."
	}
	var button *slack.Accessory
	if href := link(a); href != "" {
		b := slack.NewButtonBlockElement("open", "", plain("Investigate", 75))
		b.URL = href
		button = slack.NewAccessory(b)
	}
	blocks = append(blocks, slack.NewSectionBlock(plain(reason, mostText), nil, button))
	var steps []slack.MixedElement
	if runbook := paragraph(a.Runbook, 1500); runbook != "" {
		steps = append(steps, plain("First steps: "+runbook, mostText))
	}
	if command := line(a.Command, 500); command != "" {
		steps = append(steps, mrkdwn(code(command, 500), mostText))
	}
	if len(steps) > 0 {
		blocks = append(blocks, slack.NewContextBlock("", steps...))
	}
	return blocks
}

// fallback is the message for those that show no blocks, and for the phone's lock
// screen: a line for each finding, of which the first are told in full while there is
// room, and how many more there are.
func fallback(n *message.Notification) string {
	room := mostFallback - 40 // for how many more there are
	head := ""
	if len(n.Alerts) > 1 || n.Left > 0 {
		head = fmt.Sprintf("*%d findings*\n", len(n.Alerts)+n.Left)
		room -= characters(head)
	}
	var told []string
	for i := range n.Alerts[:min(len(n.Alerts), mostShown)] {
		text := title(&n.Alerts[i])
		if room -= characters(text); room < 0 {
			break
		}
		told = append(told, text)
	}
	for i, text := range told {
		full := inFull(&n.Alerts[i])
		if more := characters(full) - characters(text); more <= room {
			told[i], room = full, room-more
		}
	}
	text := head + strings.Join(told, "")
	if left := len(n.Alerts) - len(told) + n.Left; left > 0 {
		text += andMore(left)
	}
	return strings.TrimSuffix(text, "\n")
}

func characters(s string) int { return len([]rune(s)) }

// title is a finding in one line.
func title(a *message.Alert) string {
	words, _ := headline(a)
	return "*" + escape(words) + "* " + code(a.Title, 200) + "\n"
}

// inFull is a finding in about ten lines.
func inFull(a *message.Alert) string {
	var b strings.Builder
	b.WriteString(title(a))
	if _, by := headline(a); by != "" {
		b.WriteString("By: " + code(by, 100) + "\n")
	}
	for _, x := range facts(a) {
		b.WriteString(x.name + ": " + code(x.value, 120) + "\n")
	}
	for _, x := range []fact{{name: "Why", value: line(a.Finding.Reason, 300)}, {name: "First steps", value: line(a.Runbook, 300)}, {name: "Command", value: line(a.Command, 200)}} {
		if x.value != "" {
			b.WriteString(x.name + ": " + code(x.value, 300) + "\n")
		}
	}
	if href := link(a); href != "" && len(href) <= 500 {
		b.WriteString("More: <" + escapeLink(href) + ">\n")
	}
	return b.String()
}

var escaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// escape makes text that Slack shows as it is.
func escape(s string) string { return escaper.Replace(s) }

// escapeLink makes a URL that can't end before its end.
func escapeLink(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "%3C", ">", "%3E", "|", "%7C", "`", "%60").Replace(s)
}

// code is foreign text where no markup is read.
func code(s string, most int) string {
	s = strings.ReplaceAll(line(s, most), "`", "'")
	if s == "" {
		return ""
	}
	return "`" + escape(s) + "`"
}

// plain is text without markup; it is cut before what would be too long as it is sent.
func plain(s string, most int) *slack.TextBlockObject {
	cut := s
	for n := most; characters(escape(cut)) > most; n -= max(1, (characters(escape(cut))-most)/5) {
		cut = clip(s, max(1, n))
	}
	return slack.NewTextBlockObject(slack.PlainTextType, escape(cut), false, false)
}

// mrkdwn is text that was escaped, with its length checked: what its parts may have
// adds up to less, but for text that is escapes throughout.
func mrkdwn(s string, most int) *slack.TextBlockObject {
	if characters(s) > most {
		s = "`" + clip(strings.NewReplacer("`", "", "*", "", "&amp;", " ", "&lt;", " ", "&gt;", " ", "\n", " ").Replace(s), most-2) + "`"
	}
	return slack.NewTextBlockObject(slack.MarkdownType, s, false, true)
}
