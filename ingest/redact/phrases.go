package redact

import (
	"bytes"
	"regexp"
	"strings"
	"sync"
)

// instruction is a kind of wording that speaks to a model instead of a reader.
type instruction struct {
	keywords []string
	regex    string // what has to stand around the keyword, if more than it
	here     bool   // regex starts with the keyword
	needs    string // words, one of which stands near, before regex is worth running
	once     sync.Once
	re       *regexp.Regexp
	need     *wordSet
}

// gap is what may stand between two words: white space, and what quoting and
// line folding in YAML, JSON, Markdown and e-mail leave there.
const gap = `(?:[\s\\>*#|_"'-]|\\[nrt])+`

// phrases are the instruction-like wordings. They are a signal and a
// neighbourhood for marks, never a reason to drop a call: text about prompt
// injection has them too.
var phrases = []instruction{
	{keywords: []string{"<information>", "</information>", "<important>", "</important>", "<|im_start|>", "<|system|>", "<<sys>>", "[/inst]", "<system_prompt>", "[system]:", "<secret_instructions>", "<hidden_instruction"}},
	{keywords: []string{"ignore ", "disregard ", "forget "}, here: true,
		regex: `(?i)(?:ignore|disregard|forget)` + gap + `(?:all` + gap + `|any` + gap + `)?(?:your` + gap + `|the` + gap + `|my` + gap + `)?(?:instructions|everything` + gap + `(?:above|before|you))`},
	{keywords: []string{"ignore", "disregard", "forget", "override", "bypass"}, here: true,
		regex: `(?i)(?:ignore|disregard|forget|override|bypass)` + gap + `(?:(?:all|any|the|your|of|my|these|those|every|everything|each|other)` + gap + `){0,4}(?:previous|prior|above|earlier|preceding|existing|former|foregoing|initial|original|system|current|safety)` + gap + `(?:[a-z]+` + gap + `)?(?:instruct|prompt|message|direction|rule|command|context|guideline|task|order|directive|conversation|request|polic)`},
	{keywords: []string{"adhere to", "follow the following", "follow these", "follow this", "follow my"}, here: true, regex: `(?i)(?:adhere` + gap + `to|follow)` + gap + `(?:the` + gap + `following|these|this|my)` + gap + `(?:new` + gap + `)?instruction`},
	{keywords: []string{"important message", "important!!!", "very important!"}, regex: `(?i)important` + gap + `message` + gap + `from|important!!|very` + gap + `important!`},
	{keywords: []string{"before you"}, here: true, regex: `(?i)before` + gap + `you` + gap + `(?:can` + gap + `|may` + gap + `)?(?:solve|continue|proceed|do` + gap + `anything|complete|answer|finish|start|respond|help)\b`},
	{keywords: []string{"following first", "do this first", "following task", "do the following"}, needs: "must\nplease\nshould\nhave to\nneed to\nand ", regex: `(?i)(?:must|please|should|have` + gap + `to|need` + gap + `to|and)` + gap + `(?:first` + gap + `)?(?:do|perform|complete|execute|carry` + gap + `out)` + gap + `(?:this|the` + gap + `following)(?:` + gap + `(?:first|task|steps|action)|[^\n]{0,12}first)`},
	{keywords: []string{"ai language model", "ai assistant", "ai model", "ai agent", "language model"}, needs: "to\nattention\ndear\nhey\nhello\nfor\nyou", regex: `(?i)(?:\b(?:to|attention|dear|hey|hello|note` + gap + `(?:to|for)|instructions?` + gap + `(?:to|for)|message` + gap + `(?:to|for)|you,?)[,:]?` + gap + `(?:you,?` + gap + `)?(?:the|any|all|an?|this)?` + gap + `?(?:ai|large|llm)` + gap + `(?:language` + gap + `)?(?:model|assistant|agent)|you` + gap + `are` + gap + `an?` + gap + `ai)`},
	{keywords: []string{"gpt-", "claude", "gemini", "chatgpt", "copilot", "mixtral", "llama"}, needs: "to you\nhey\nattention\ndear", regex: `(?i)(?:\bto` + gap + `you,` + gap + `|\bhey` + gap + `|\battention` + gap + `|\bdear` + gap + `)(?:gpt|claude|gemini|chatgpt|copilot|mixtral|llama)`},
	{keywords: []string{"todo:"}, here: true, regex: `(?i)todo:[\s\\"']*(?:please\s+)?(?:send|share|email|e-mail|forward|transfer|delete|create|make|post|upload|reset|invite|pay|buy|book|reserve|change|update|add|remove|give|visit|go|say|click|call|write|reply|download|run|execute|set|modify|cancel|list|tell|order|withdraw|use|open)\b`},
	{keywords: []string{"system prompt", "system message", "developer mode", "jailbreak", "initial prompt", "hidden instruction", "secret instruction"}, regex: `(?i)(?:reveal|show|print|repeat|output|ignore|your|leak|new|enable|enter|the` + gap + `following)` + gap + `(?:[a-z]+` + gap + `){0,2}(?:system` + gap + `(?:prompt|message)|initial` + gap + `prompt)|developer` + gap + `mode|jailbreak|(?:hidden|secret)` + gap + `instruction`},
	{keywords: []string{"new instruction", "new task", "updated instruction", "real task", "actual task"}, regex: `(?i)(?:your|the|these|here` + gap + `(?:is|are))` + gap + `(?:your` + gap + `)?(?:new|updated|real|actual)` + gap + `(?:instruction|task)`},
	{keywords: []string{"the user", "to user", "the human", "anyone"}, needs: "not \ndon\nnever\nwithout\navoid", regex: `(?i)(?:(?:do` + gap + `not|don[’']?t|never|without|avoid)` + gap + `(?:ever` + gap + `)?(?:tell|telling|inform|informing|notify|notifying|mention|mentioning|reveal|revealing|alert|alerting|ask|asking|show|showing|warn|let)(?:` + gap + `[a-z]+){0,5}` + gap + `(?:the` + gap + `|to` + gap + `)?(?:user|human|anyone)|without` + gap + `the` + gap + `user[’']?s?` + gap + `(?:knowledge|knowing|consent|approval|permission|noticing))`},
	{keywords: []string{"stop what you", "solve the task"}, regex: `(?i)(?:immediately` + gap + `)?stop` + gap + `what` + gap + `you|solve` + gap + `the` + gap + `task` + gap + `that` + gap + `i`},
	{keywords: []string{"use the tool", "call the tool", "using the tool", "invoke the tool", "use the function", "call the function"}, needs: "you\nplease\nmust\nshould\nthen\nnow\nalso\nalways", regex: `(?i)(?:you|please|must|should|then|now|also|always)` + gap + `(?:[a-z]+` + gap + `){0,2}(?:use|call|using|invoke)` + gap + `the` + gap + `(?:tool|function)`},
	{keywords: []string{"you are now", "act as", "pretend"}, here: true, regex: `(?i)you` + gap + `are` + gap + `now` + gap + `(?:an?` + gap + `(?:unrestricted|different|new|evil|helpful|hacker|malicious)|in` + gap + `[a-z]+` + gap + `mode|dan\b|free)|pretend` + gap + `(?:that` + gap + `)?you` + gap + `(?:are|have)|act` + gap + `as` + gap + `(?:if` + gap + `you|an?` + gap + `unrestricted)`},
	{keywords: []string{"exfiltrat", "~/.ssh", "id_rsa", ".cursor/mcp.json", "mcp.json"}, regex: `(?i)(?:read|send|pass|include|upload|cat|get|content|attach)[^\n]{0,60}(?:~/\.ssh|id_rsa|mcp\.json)|exfiltrat`},
	{keywords: []string{"this tool"}, needs: "before\nwhen\nafter\nprior\nwhile", regex: `(?i)(?:before|when|after|whenever|prior` + gap + `to|while)` + gap + `(?:using|calling|invoking|running|you` + gap + `(?:use|call|invoke))` + gap + `(?:this|any|other|another)` + gap + `tool[^\n.]{0,40}(?:must|first|always|need` + gap + `to|have` + gap + `to|read|send|make` + gap + `sure)`},
}

// guide is where an instruction-like phrase stands. What closes an instruction
// speaks about what stands before it, any other about what follows.
type guide struct {
	at     int32
	closes bool
}

// phrase checks the words around a keyword and notes where it stands.
func (s *scanner) phrase(p *instruction, t []byte, lo, hi int) {
	if p.regex != "" {
		p.once.Do(p.compile)
		a, b := max(0, lo-80), min(len(t), hi+120)
		if p.here {
			if a = lo; lo > 0 && isAlnum(t[lo-1]) && !isUpper(t[lo]) {
				return // the end of another word, unless a line break got lost
			}
		}
		if p.need != nil && !p.need.contains(t[a:b]) {
			return
		}
		if !s.spend((b-a)*regexpCost) || !p.re.Match(t[a:b]) {
			return
		}
	}
	s.sig.add("injection_phrase")
	if len(s.near) < maxNear {
		s.near = append(s.near, guide{int32(lo), t[lo] == '<' && t[lo+1] == '/' || lower(t[lo]) == 's' && lower(t[lo+2]) == 'l'})
	}
}

func (p *instruction) compile() {
	if p.here {
		p.re = regexp.MustCompile(`\A(?:` + p.regex + `)`)
	} else {
		p.re = regexp.MustCompile(p.regex)
	}
	if p.needs != "" {
		p.need = newWordSet(strings.Split(p.needs, "\n"))
	}
}

// hidden looks for characters that a reader does not see and a model reads:
// zero-width ones within words, bidirectional overrides, the tag block.
func (s *scanner) hidden(t []byte) {
	for i := nextInvisible(t, 0); i >= 0; i = nextInvisible(t, i+1) {
		if i+2 >= len(t) {
			return
		}
		switch {
		case t[i] == 0xE2 && t[i+1] == 0x80:
			c := t[i+2]
			switch {
			case c == 0x8B, c >= 0xAA && c <= 0xAE: // U+200B, U+202A..E
				s.sig.add("hidden_unicode")
				return
			case c >= 0x8C && c <= 0x8F: // joiners and marks: usual in other scripts and in emoji
				if i > 0 && i+3 < len(t) && isAlnum(t[i-1]) && isAlnum(t[i+3]) {
					s.sig.add("hidden_unicode")
					return
				}
			}
		case t[i] == 0xE2 && t[i+1] == 0x81 && (t[i+2] >= 0xA0 && t[i+2] <= 0xA9): // U+2060..2069
			s.sig.add("hidden_unicode")
			return
		case t[i] == 0xEF && t[i+1] == 0xBB && t[i+2] == 0xBF && i > 0: // U+FEFF
			s.sig.add("hidden_unicode")
			return
		case t[i] == 0xF3 && t[i+1] == 0xA0:
			// U+E0000..E007F spell ASCII; flags of regions use them behind
			// U+1F3F4. U+E0100..E01EF are variation selectors, which can carry
			// bytes as well.
			if t[i+2] <= 0x87 {
				if j := bytes.LastIndexByte(t[max(0, i-24):i], 0xF0); j >= 0 && bytes.HasPrefix(t[max(0, i-24)+j:], []byte("\U0001F3F4")) {
					continue
				}
				s.sig.add("hidden_unicode")
				return
			}
		}
	}
}

// nextInvisible finds the next byte that may begin an invisible character.
func nextInvisible(t []byte, from int) int {
	for i := from; i < len(t); i++ {
		if c := t[i]; c >= 0xE2 && (c == 0xE2 || c == 0xEF || c == 0xF3) {
			return i
		}
	}
	return -1
}
