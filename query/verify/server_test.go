package verify_test

import (
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
)

func init() { storetest.Server = enginetest.Databases() }

// What verify finds over the engine in process it finds over a server, which hashes the
// events itself. Left out are the tests that make many stores out of one folder.
func TestAServersStoreIsVerifiedAlike(t *testing.T) {
	enginetest.Again(t, "MadeAnewWithAnotherKey|KeysThatTookOver|AKeyThatHandedOver|OnlyBatchesOfARange", "")
}
