package main

import (
	"fmt"
	"time"
)

// statusLine says on standard error how far long work is: a line that is drawn again
// and again on a terminal, a line now and then elsewhere.
type statusLine struct {
	s           *surroundings
	doing       string
	err         screen
	start, said time.Time
	drawn       bool
}

// newStatusLine begins it. Nothing is said to a program, nor of work that is short.
func newStatusLine(s *surroundings, doing string, quiet bool) *statusLine {
	p := &statusLine{s: s, doing: doing, err: s.screen(s.stderr), start: s.now(), said: s.now()}
	if quiet {
		p.err.Writer = nil
	}
	return p
}

// at says that so many of total events are done; total is 0 when it is not known.
func (p *statusLine) at(events, total uint64) {
	elapsed := p.s.now().Sub(p.start)
	text := fmt.Sprintf("%s, %.0f a second", count(events, "event"), float64(events)/max(elapsed.Seconds(), 1e-3))
	if total > 0 && events > 0 {
		share := min(float64(events)/float64(total), 1)
		text = fmt.Sprintf("%3.0f %%, ", 100*share) + text + ", about " + roughly(time.Duration(float64(elapsed)*(1-share)/share)) + " left"
	}
	p.draw(text)
}

// draw shows a text when it is time to.
func (p *statusLine) draw(text string) {
	now, every := p.s.now(), reportEvery
	if p.err.terminal {
		every = redrawEvery
	}
	if p.err.Writer == nil || now.Sub(p.said) < every {
		return
	}
	p.said = now
	p.clear()
	text = "mcpaudit: " + p.doing + ": " + text
	if !p.err.terminal {
		fmt.Fprintln(p.err, text)
		return
	}
	fmt.Fprint(p.err, printable(text, max(p.err.width-1, 20)))
	p.drawn = true
}

// clear takes the line away, before something else is printed.
func (p *statusLine) clear() {
	if p.drawn {
		fmt.Fprint(p.err, "\r\x1b[K")
		p.drawn = false
	}
}
