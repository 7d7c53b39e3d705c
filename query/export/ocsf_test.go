package export

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/wire"
)

// class says what an OCSF object may and must have: facts of the schema at
// https://schema.ocsf.io, version 1.9, for what is used here. An attribute that is
// not listed is a mistake. Types: s text, i integer, t time in milliseconds, j any
// JSON, ip an address, [s] a list of texts, an object's name, or [name] a list.
type class struct {
	required string
	oneOf    string // at least one of these
	has      map[string]string
}

var ocsfClasses = map[string]class{
	"api_activity": {
		required: "activity_id category_uid class_uid metadata severity_id time type_uid actor api src_endpoint",
		has: map[string]string{"activity_id": "i", "activity_name": "s", "category_uid": "i", "category_name": "s", "class_uid": "i", "class_name": "s",
			"type_uid": "i", "type_name": "s", "severity_id": "i", "severity": "s", "status_id": "i", "status": "s", "status_code": "s", "status_detail": "s",
			"time": "t", "metadata": "metadata", "actor": "actor", "api": "api", "src_endpoint": "network_endpoint", "dst_endpoint": "network_endpoint",
			"http_request": "http_request", "http_response": "http_response", "resources": "[resource_details]", "unmapped": "j",
			// ai_operation, record_integrity, security_control, trace
			"ai_agent": "ai_agent", "ai_model": "ai_model", "message_context": "message_context", "attestation_list": "[attestation]",
			"action_id": "i", "action": "s", "disposition_id": "i", "disposition": "s", "trace": "trace"}},
	"metadata": {required: "product version", has: map[string]string{"version": "s", "product": "product", "profiles": "[s]", "uid": "s", "event_code": "s",
		"log_name": "s", "logged_time": "t", "tenant_uid": "s", "correlation_uid": "s"}},
	"product":          {oneOf: "name uid", has: map[string]string{"name": "s", "vendor_name": "s", "version": "s"}},
	"actor":            {oneOf: "process user iam_role invoked_by session app_name app_uid", has: map[string]string{"user": "user", "session": "session", "app_name": "s", "authorizations": "[authorization]"}},
	"user":             {oneOf: "account name uid", has: map[string]string{"name": "s", "uid": "s", "type_id": "i", "type": "s", "credential_uid": "s"}},
	"session":          {has: map[string]string{"uid": "s"}},
	"authorization":    {has: map[string]string{"decision": "s", "policy": "policy"}},
	"policy":           {oneOf: "name type uid", has: map[string]string{"uid": "s", "version": "s"}},
	"api":              {required: "operation", has: map[string]string{"operation": "s", "version": "s", "service": "service", "request": "request", "response": "response"}},
	"service":          {oneOf: "name uid", has: map[string]string{"name": "s", "version": "s"}},
	"request":          {required: "uid", has: map[string]string{"uid": "s", "data": "j"}},
	"response":         {has: map[string]string{"error": "s", "error_message": "s"}},
	"resource_details": {oneOf: "name uid", has: map[string]string{"name": "s", "type": "s", "role_id": "i", "role": "s"}},
	"network_endpoint": {oneOf: "ip uid name hostname svc_name instance_uid interface_uid interface_name domain", has: map[string]string{"name": "s", "ip": "ip", "svc_name": "s", "instance_uid": "s"}},
	"http_request":     {has: map[string]string{"user_agent": "s"}},
	"http_response":    {required: "code", has: map[string]string{"code": "i"}},
	"ai_agent":         {oneOf: "name uid", has: map[string]string{"uid": "s", "name": "s", "ai_model": "ai_model"}},
	"ai_model":         {required: "ai_provider name", has: map[string]string{"name": "s", "ai_provider": "s"}},
	"message_context":  {oneOf: "application service", has: map[string]string{"uid": "s", "ai_role_id": "i", "ai_role": "s", "service": "service"}},
	"trace":            {required: "uid", has: map[string]string{"uid": "s", "span": "span"}},
	"span":             {required: "uid start_time end_time", has: map[string]string{"uid": "s", "parent_uid": "s", "start_time": "t", "end_time": "t"}},
	"attestation":      {oneOf: "fingerprint signatures", has: map[string]string{"uid": "s", "chain_uid": "s", "authority_uid": "s", "fingerprint": "fingerprint"}},
	"fingerprint": {required: "algorithm_id value", has: map[string]string{"algorithm_id": "i", "algorithm": "s", "encoding_id": "i", "encoding": "s",
		"serialization_id": "i", "serialization": "s", "value": "s"}},
}

// ocsfEnums are the values of X_id, by object, and their captions; 99 has one of
// its own.
var ocsfEnums = map[string]map[int]string{
	"api_activity.activity_id":     {0: "Unknown", 1: "Create", 2: "Read", 3: "Update", 4: "Delete"},
	"api_activity.severity_id":     {0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical", 6: "Fatal"},
	"api_activity.status_id":       {0: "Unknown", 1: "Success", 2: "Failure"},
	"api_activity.action_id":       {0: "Unknown", 1: "Allowed", 2: "Denied", 3: "Observed", 4: "Modified"},
	"api_activity.disposition_id":  {0: "Unknown", 1: "Allowed", 2: "Blocked", 17: "Logged"},
	"user.type_id":                 {0: "Unknown", 1: "User", 2: "Admin", 3: "System", 4: "Service"},
	"resource_details.role_id":     {0: "Unknown", 1: "Target", 2: "Actor", 3: "Affected", 4: "Related"},
	"message_context.ai_role_id":   {0: "Unknown", 1: "User", 2: "Assistant", 3: "Tool", 4: "Agent", 5: "Orchestrator", 6: "Retriever"},
	"fingerprint.algorithm_id":     {0: "Unknown", 3: "SHA-256"},
	"fingerprint.encoding_id":      {0: "Unknown", 1: "Hex", 2: "Base64", 3: "Base64URL"},
	"fingerprint.serialization_id": {0: "Unknown", 1: "Flat", 2: "JCS"},
}

func checkOCSF(name string, m map[string]any) error {
	c, ok := ocsfClasses[name]
	if !ok {
		return fmt.Errorf("there is no object %q", name)
	}
	for _, attribute := range strings.Fields(c.required) {
		if m[attribute] == nil {
			return fmt.Errorf("%s has no %s", name, attribute)
		}
	}
	if c.oneOf != "" && !slices.ContainsFunc(strings.Fields(c.oneOf), func(a string) bool { return m[a] != nil }) {
		return fmt.Errorf("%s has none of %s", name, c.oneOf)
	}
	for attribute, value := range m {
		kind, ok := c.has[attribute]
		if !ok {
			return fmt.Errorf("%s has no attribute %s", name, attribute)
		}
		if err := checkOCSFValue(kind, value); err != nil {
			return fmt.Errorf("%s.%s: %w", name, attribute, err)
		}
		sibling, ok := strings.CutSuffix(attribute, "_id")
		if !ok {
			continue
		}
		if attribute == "activity_id" {
			sibling = "activity_name"
		}
		id := int(value.(float64))
		caption, ok := ocsfEnums[name+"."+attribute][id]
		if id == 99 {
			caption, ok = m[sibling].(string)
		}
		if !ok || m[sibling] != caption {
			return fmt.Errorf("%s.%s is %d, and %s %q", name, attribute, id, sibling, m[sibling])
		}
	}
	return nil
}

func checkOCSFValue(kind string, value any) error {
	ok := true
	switch kind {
	case "j":
	case "s":
		_, ok = value.(string)
	case "ip":
		var text string
		text, ok = value.(string)
		ok = ok && ocsfIP(text)
	case "i":
		var n float64
		n, ok = value.(float64)
		ok = ok && n == float64(int32(n))
	case "t":
		var n float64
		n, ok = value.(float64)
		ok = ok && n > 9e11 && n == float64(int64(n))
	default:
		element, list := strings.CutPrefix(kind, "[")
		if !list {
			object, isObject := value.(map[string]any)
			if !isObject {
				return fmt.Errorf("%v is no object", value)
			}
			return checkOCSF(kind, object)
		}
		elements, isList := value.([]any)
		if !isList || len(elements) == 0 {
			return fmt.Errorf("%v is no list", value)
		}
		for _, one := range elements {
			if err := checkOCSFValue(strings.TrimSuffix(element, "]"), one); err != nil {
				return err
			}
		}
	}
	if !ok {
		return fmt.Errorf("%v is not of type %s", value, kind)
	}
	return nil
}

func TestOCSFIsWhatItsSchemaSaysAndLeavesNothingOut(t *testing.T) {
	render := ocsf("1.2.3")
	seen := map[string]bool{}
	for _, e := range randomEvents(5, 2000) {
		line := render(nil, e)
		if bytes.IndexByte(line, '\n') != len(line)-1 {
			t.Fatalf("%q is not one line", line)
		}
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if err := checkOCSF("api_activity", m); err != nil {
			t.Fatalf("%v, in %s", err, line)
		}
		for k := range m {
			seen[k] = true
		}
		if m["type_uid"] != m["class_uid"].(float64)*100+m["activity_id"].(float64) || m["class_uid"] != 6003.0 || m["category_uid"] != 6.0 {
			t.Fatalf("%s", line)
		}
		// Every text of the event is somewhere.
		there := map[string]bool{}
		collectTexts(m, there)
		var all any
		text, err := wire.MarshalJSON(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &all); err != nil {
			t.Fatal(err)
		}
		object := all.(map[string]any)
		delete(object, "received_at") // a number there
		delete(object, "leaf")
		delete(object, "batch") // both in the attestation's uid
		wanted := map[string]bool{e.LogID: true}
		collectTexts(object, wanted)
		for _, text := range slices.Sorted(maps.Keys(wanted)) {
			if text != "" && text != "none" && !there[text] {
				t.Fatalf("%q is nowhere in %s", text, line)
			}
		}
	}
	for _, k := range []string{"trace", "ai_agent", "ai_model", "attestation_list", "message_context", "http_response", "resources"} {
		if !seen[k] {
			t.Errorf("no event had %s", k)
		}
	}
}

func collectTexts(v any, into map[string]bool) {
	switch v := v.(type) {
	case string:
		into[v] = true
	case []any:
		for _, one := range v {
			collectTexts(one, into)
		}
	case map[string]any:
		for _, one := range v {
			collectTexts(one, into)
		}
	}
}
