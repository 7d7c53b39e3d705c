package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Where the password of SASL is found by programs that are told of a topic by its URL:
// the one has it, the other one names a file that has it.
const (
	PasswordVariable     = "MCPAUDIT_KAFKA_PASSWORD"
	PasswordFileVariable = "MCPAUDIT_KAFKA_PASSWORD_FILE"
)

// FindPassword is what env gives for [PasswordVariable], or the contents of the file
// that it names by [PasswordFileVariable].
func FindPassword(env func(string) string) (string, error) {
	if word := env(PasswordVariable); word != "" {
		return word, nil
	}
	file := env(PasswordFileVariable)
	if file == "" {
		return "", fmt.Errorf("SASL needs a password: set %s, or %s to the name of a file that holds it", PasswordVariable, PasswordFileVariable)
	}
	return ReadPassword(file)
}

// ReadPassword reads a file's only line.
func ReadPassword(file string) (string, error) {
	text, err := os.ReadFile(file)
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return "", fmt.Errorf("read the SASL password: %s: %w", file, p.Err)
	}
	if err != nil {
		return "", fmt.Errorf("read the SASL password: %w", err)
	}
	word := strings.TrimRight(string(text), "\r\n")
	if word == "" {
		return "", fmt.Errorf("read the SASL password: %s is empty", file)
	}
	return word, nil
}
