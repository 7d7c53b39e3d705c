package emit

// Hurried is closed once Close has no more time for redaction.
func (e *Emitter) Hurried() <-chan struct{} { return e.hurry }
