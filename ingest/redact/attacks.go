package redact

import (
	"regexp"
	"sync"
)

// attackForm is a form of attack on what a tool does with an argument.
type attackForm struct {
	signal   string
	keywords []string
	regex    string // what has to stand around the keyword, if more than it
	once     sync.Once
	re       *regexp.Regexp
}

const commands = `(?:cat|ls|id|whoami|uname|curl|wget|nc|ncat|bash|sh|zsh|rm|python3?|perl|ruby|php|powershell|chmod|env|printenv|hostname|ping|sleep|nslookup|dig|echo|touch|kill|shutdown|reboot|mkfifo|base64)`

var attacks = []attackForm{
	{signal: "path_traversal", keywords: []string{"../", `..\`}, regex: `(?:^|[/\\=:"'\s(])(?:\.\.[/\\]){2,}|^\.\.[/\\]|[/\\]\.\.[/\\]|\.\.[/\\]+(?:etc|proc|root|home|var|windows|boot|\.ssh|\.env)`},
	{signal: "path_traversal", keywords: []string{"%2e%2e", "..%2f", "..%5c", "%252e", "..%c0", "%c0%ae", "....//", "..;/"}},
	{signal: "path_traversal", keywords: []string{"/etc/passwd", "/etc/shadow", "/etc/sudoers", "/proc/self", "/.ssh/id_", "win.ini", `system32\config`, "/.aws/credentials", "boot.ini"}},
	{signal: "path_traversal", keywords: []string{"%00"}, regex: `[\w/.]%00(?:\.\w{2,4})?$`},
	{signal: "sql_injection", keywords: []string{"union"}, regex: `(?i)['")\d]\s*(?:/\*.{0,20}?\*/\s*)?union[\s/*+]+(?:all[\s/*+]+)?select\b`},
	{signal: "sql_injection", keywords: []string{"' or", "\" or", "'or", "' and", "') or", "or 1=1", "||'", "or true"}, regex: `(?i)['"]\s*\)*\s*(?:or|and|\|\|)\s+(?:not\s+)?\(*['"]?\w*['"]?\s*(?:=|<|>|like|in|is)\s*['"(]?\w*|\bor\s+1\s*=\s*1\b|'\s*or\s+true\b`},
	{signal: "sql_injection", keywords: []string{"drop ", "truncate ", "shutdown", "delete from", "alter table", "insert into", "exec"}, regex: `(?i)['")\d]?\s*;\s*(?:drop\s+(?:table|database|schema|user)|truncate\s+table|shutdown\b|delete\s+from|alter\s+table|exec(?:ute)?\s+(?:xp_|sp_|master)|insert\s+into)\b.{0,200}?(?:--|;|#|$)`},
	{signal: "sql_injection", keywords: []string{"sleep(", "benchmark(", "waitfor delay", "xp_cmdshell", "load_file(", "into outfile", "into dumpfile", "extractvalue(", "updatexml(", "pg_read_file"}, regex: `(?i)(?:pg_)?sleep\s*\(\s*\d+\s*\)\s*(?:--|#|\)|;|and|or|$)|benchmark\s*\(\s*\d+\s*,|waitfor\s+delay|xp_cmdshell|load_file\s*\(|into\s+(?:out|dump)file|extractvalue\s*\(|updatexml\s*\(|pg_read_file`},
	{signal: "sql_injection", keywords: []string{"'--", "' --", "'#", "';--", "\"--", "1;--"}, regex: `\w['"]\s*\)*;?\s*(?:--\s*(?:-|\+)?|#)\s*$`},
	{signal: "shell_injection", keywords: []string{"$("}, regex: `\$\(\s*` + commands + `\b`},
	{signal: "shell_injection", keywords: []string{"`"}, regex: "`\\s*(?:id|whoami|uname(?: -a)?|hostname|(?:cat|curl|wget|nc|rm|ls) [^`\\n]{1,120})\\s*`"},
	{signal: "shell_injection", keywords: []string{";", "&&", "||", "|"}, regex: `(?:^|[\w"')./-])\s*(?:;|&&|\|\|?)\s*(?:sudo\s+)?(?:cat\s+[/~.]|ls\s+-|id\s*(?:$|[;|&#])|whoami\b|uname\s+-|curl\s+(?:-|http|\w+\.)|wget\s+(?:-|http|\w+\.)|nc\s+(?:-|\d)|(?:ba|z|k)?sh\s*(?:$|-[ci]|[;|&])|rm\s+-[rf]|python3?\s+-c|perl\s+-e|powershell\s|ping\s+-[cn]|sleep\s+\d|reboot\b|mkfifo\s|base64\s+-)`},
	{signal: "shell_injection", keywords: []string{"/dev/tcp/", "rm -rf /", "bash -i", "nc -e", "powershell -e", "${ifs}", ":(){"}},
	{signal: "template_injection", keywords: []string{"{{", "{%", "<%="}, regex: `\{\{-?\s*(?:\d+\s*[*+]\s*['"]?\d+|config\b|self\b|request\.|cycler\b|joiner\b|lipsum\b|namespace\b|_self\b|['"(\[][^}]{0,60}__class__|this\.constructor|constructor\.)|\{%\s*(?:import|include|for\s+\w+\s+in\s+\(\)|debug)|<%=\s*(?:\d+\s*\*|system|` + "`" + `|File\.|IO\.)`},
	{signal: "template_injection", keywords: []string{"__class__", "__mro__", "__subclasses__", "__globals__", "__builtins__"}, regex: `(?:\.|\[['"]|\|attr\(['"])__(?:class|mro|subclasses|globals|builtins|base)__`},
	{signal: "template_injection", keywords: []string{"${", "#{"}, regex: `(?i)[$#]\{\s*(?:\d+\s*\*\s*\d+|jndi:|T\(java|@?java\.lang|\w*\.getClass|new\s+java|[^}]{0,40}:-j\})`},
	{signal: "script_injection", keywords: []string{"<script", "javascript:", "vbscript:", "data:text/html", "document.cookie"}, regex: `(?i)<script[\s>/]|(?:^|["'=(\s])(?:java|vb)script:[^\s]|data:text/html|document\.cookie`},
	{signal: "script_injection", keywords: []string{"onerror", "onload", "onmouseover", "onfocus", "ontoggle", "onclick", "onanimation"}, regex: `(?i)<\w[^>]{0,200}[\s/"']on(?:error|load|mouseover|focus|toggle|click|animation\w{3,5})\s*=`},
	{signal: "script_injection", keywords: []string{"<iframe", "srcdoc="}, regex: `(?i)<iframe[^>]{0,200}(?:srcdoc|src\s*=\s*["']?(?:javascript|data):)`},
	{signal: "prototype_pollution", keywords: []string{"__proto__", "constructor.prototype", "constructor[prototype", "__definegetter__"}},
	{signal: "xxe", keywords: []string{"<!entity", "<!doctype"}, regex: `(?i)<!entity\s+%?\s*\w+\s+(?:system|public)|<!doctype[^>]{0,100}\[`},
	{signal: "header_injection", keywords: []string{"%0d%0a", "\r\nset-cookie:", "\r\nlocation:"}},
	{signal: "nosql_injection", keywords: []string{"$where", "[$ne]", "[$gt]", "[$regex]"}},
	{signal: "ssrf:metadata", keywords: []string{"169.254.169.254", "metadata.google.internal", "latest/meta-data", "computemetadata/v1", "100.100.100.200", "0xa9fea9fe", "2852039166"}},
}

// attack checks what stands around a keyword of an attack.
func (s *scanner) attack(a *attackForm, t []byte, lo, hi int) {
	if s.sig.has(a.signal) {
		return
	}
	if a.regex != "" {
		// One byte tells most semicolons and pipes of ordinary text apart from
		// those before a command.
		if hi-lo <= 2 && (t[lo] == ';' || t[lo] == '|' || t[lo] == '&') && !commandFollows(t, hi) {
			return
		}
		from, to := max(0, lo-64), min(len(t), hi+200)
		a.once.Do(func() { a.re = regexp.MustCompile(a.regex) })
		if from > 0 {
			// ^ must not hold in the middle of a text.
			for from < lo && t[from]&0xC0 == 0x80 {
				from++
			}
		}
		if !s.spend((to-from)*regexpCost) || !a.re.Match(t[from:to]) {
			return
		}
	}
	s.sig.add(a.signal)
}

// commandFollows reports whether the word at i can be a command's.
func commandFollows(t []byte, i int) bool {
	for i < len(t) && (t[i] == ' ' || t[i] == '|' || t[i] == '&') {
		i++
	}
	if i+1 >= len(t) {
		return false
	}
	switch string(t[i : i+2]) {
	case "ca", "ls", "id", "wh", "un", "cu", "wg", "nc", "ba", "sh", "zs", "ks", "rm", "py", "pe", "po", "pi", "sl", "re", "mk", "su":
		return true
	}
	return false
}

const maxURLSignals = 8 // registrable domains named per side of a call

// signals gathers what was seen, each once. A call has a handful.
type signals struct {
	prefix string // "result:" while a result is read
	list   []string
	from   int // where the current side's signals start
	urls   int
}

func (g *signals) has(name string) bool {
	for _, x := range g.list[g.from:] {
		if x == name {
			return true
		}
	}
	return false
}

// add notes name and reports whether it is new on this side of the call.
func (g *signals) add(name string) bool {
	if g.has(name) {
		return false
	}
	g.list = append(g.list, name)
	return true
}
