package mcpauditv1

import _ "embed"

// OpenAPI is the description of the HTTP/JSON API, OpenAPI 2.0, made from the
// .proto files.
//
//go:embed mcpaudit.swagger.json
var OpenAPI []byte
