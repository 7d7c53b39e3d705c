package client

import (
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Refused says whether a call's error means that the service does not take what this
// program is, and what to do about it. Calling again changes nothing until somebody
// has; a key file is read again by itself.
func (c Config) Refused(err error) (what string, refused bool) {
	st := status.Convert(err)
	switch {
	case st.Code() == codes.PermissionDenied:
		return st.Message(), true
	case st.Code() != codes.Unauthenticated:
		return "", false
	case c.Anonymous():
		return fmt.Sprintf("the service wants a credential, and there is none; give a key: %s=FILE, made with 'mcpaudit access create'", KeyFileVariable), true
	}
	return st.Message(), true
}
