package export

import (
	"testing"

	"github.com/mcpaudit/mcpaudit/ingest/store/storetest"
	"github.com/mcpaudit/mcpaudit/internal/enginetest"
)

func init() { storetest.Server = enginetest.Databases() }

// What is exported from the engine in process is exported from a server, which makes
// the rows itself.
func TestAServersStoreIsExportedAlike(t *testing.T) {
	enginetest.Again(t, "HasEverySealedEvent|AfterRetention|LargeBatchIsRead|OneFormatAlone|LineOfJSONLIs", "")
}
