package app

import (
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/mcpaudit/mcpaudit/ingest/auth"
	pb "github.com/mcpaudit/mcpaudit/proto/mcpaudit/v1"
	"github.com/mcpaudit/mcpaudit/query/sql"
)

// rights say who may call what, for every method of every service: HTTP is the same
// methods. A method that is not here is refused to everybody.
var rights = map[string]auth.Rule{
	healthpb.Health_Check_FullMethodName: {Open: true},
	healthpb.Health_List_FullMethodName:  {Open: true},
	healthpb.Health_Watch_FullMethodName: {Open: true},

	// What emitters do. Events are their own record; a witness sees the sizes, keys and
	// checkpoints of logs, which every receipt has, and no row.
	pb.IngestService_Publish_FullMethodName:             {Permission: auth.Publish, Note: auth.NoteNever},
	pb.IngestService_PublishBatch_FullMethodName:        {Permission: auth.Publish, Note: auth.NoteNever},
	pb.LedgerService_ListLogs_FullMethodName:            {Permission: auth.Witness, Note: auth.NoteNever},
	pb.LedgerService_GetConsistencyProof_FullMethodName: {Permission: auth.Witness, Note: auth.NoteNever},

	pb.QueryService_ListEvents_FullMethodName:          {Permission: auth.Read},
	pb.QueryService_GetEvent_FullMethodName:            {Permission: auth.Read},
	pb.QueryService_WatchEvents_FullMethodName:         {Permission: auth.Read, Note: auth.NoteAround, Lasting: true},
	pb.QueryService_GetTimeline_FullMethodName:         {Permission: auth.Read},
	pb.QueryService_AggregateEvents_FullMethodName:     {Permission: auth.Read},
	pb.QueryService_ListTools_FullMethodName:           {Permission: auth.Read},
	pb.QueryService_ListToolDefinitions_FullMethodName: {Permission: auth.Read},
	pb.QueryService_ListEmitters_FullMethodName:        {Permission: auth.Read},
	pb.FindingService_ListFindings_FullMethodName:      {Permission: auth.Read},
	pb.FindingService_GetFinding_FullMethodName:        {Permission: auth.Read},
	pb.FindingService_WatchFindings_FullMethodName:     {Permission: auth.Read, Note: auth.NoteAround, Lasting: true},
	pb.FindingService_ListSuppressions_FullMethodName:  {Permission: auth.Read},
	pb.RuleService_ListRules_FullMethodName:            {Permission: auth.Read},
	pb.NotifyService_ListNotifications_FullMethodName:  {Permission: auth.Read},

	// Statements at listen.sql.
	sql.Method: sql.Rule,

	pb.FindingService_TriageFinding_FullMethodName:  {Permission: auth.Triage, Note: auth.NoteOwn},
	pb.FindingService_EndSuppression_FullMethodName: {Permission: auth.Triage, Note: auth.NoteOwn},

	pb.ExportService_ExportEvents_FullMethodName: {Permission: auth.Export, Note: auth.NoteAround},

	pb.LedgerService_GetEventProof_FullMethodName: {Permission: auth.Integrity},
	pb.LedgerService_VerifyStore_FullMethodName:   {Permission: auth.Integrity, Whole: true, Note: auth.NoteAround},

	// What came of these two they note themselves. That they were asked for is noted
	// before: whether or not there was anything to do.
	pb.RuleService_ReloadRules_FullMethodName:         {Permission: auth.Administer, Whole: true, Note: auth.NoteAround},
	pb.NotifyService_ListReceivers_FullMethodName:     {Permission: auth.Administer, Whole: true},
	pb.NotifyService_TestReceivers_FullMethodName:     {Permission: auth.Administer, Whole: true, Note: auth.NoteAround},
	pb.RetentionService_PlanRetention_FullMethodName:  {Permission: auth.Administer, Whole: true},
	pb.RetentionService_ApplyRetention_FullMethodName: {Permission: auth.Administer, Whole: true, Note: auth.NoteAround},
	pb.RetentionService_CreateHold_FullMethodName:     {Permission: auth.Administer, Whole: true, Note: auth.NoteOwn},
	pb.RetentionService_ReleaseHold_FullMethodName:    {Permission: auth.Administer, Whole: true, Note: auth.NoteOwn},
	pb.RetentionService_ListHolds_FullMethodName:      {Permission: auth.Administer, Whole: true},

	pb.AccessService_WhoAmI_FullMethodName:          {Permission: auth.Anybody, Note: auth.NoteNever},
	pb.AccessService_CreateKey_FullMethodName:       {Permission: auth.Administer, Note: auth.NoteAround},
	pb.AccessService_ListKeys_FullMethodName:        {Permission: auth.Administer},
	pb.AccessService_RotateKey_FullMethodName:       {Permission: auth.Administer, Note: auth.NoteAround},
	pb.AccessService_RevokeKey_FullMethodName:       {Permission: auth.Administer, Note: auth.NoteAround},
	pb.AccessService_LookUpPseudonym_FullMethodName: {Permission: auth.Read, Discreet: true},
}
