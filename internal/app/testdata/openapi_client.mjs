// A client made of the OpenAPI document that the service at argv[2] serves, by
// swagger-client. It runs every operation and prints, as JSON, what came back.
import { createRequire } from "node:module";
const require = createRequire(process.argv[3] + "/");
const Swagger = require("swagger-client");

const client = await new Swagger({
  url: process.argv[2] + "/openapi.json",
  authorizations: { bearer: "Bearer " + process.env.KEY },
});
const api = Object.assign({}, ...Object.values(client.apis));
const body = (answer) => answer.body;
const event = JSON.parse(process.argv[4]);
const out = { title: client.spec.info.title, operations: Object.keys(api).sort() };

const published = body(await api.IngestService_PublishBatch({ body: { events: [event] } }));
out.stored = published.receipt.stored;
const list = body(await api.QueryService_ListEvents({ filter: `principal = "${event.principal}"`, page_size: 10, read_mask: "event_id,principal,outcome" }));
out.listed = list.events;
out.got = body(await api.QueryService_GetEvent({ event_id: event.event_id })).event;
out.entries = body(await api.QueryService_GetTimeline({ trace_id: event.trace_id })).entries.length;
out.groups = body(await api.QueryService_AggregateEvents({ filter: `server = "${event.server}"`, group_by: ["server", "outcome"] })).groups;
out.tools = body(await api.QueryService_ListTools({})).tools;
out.definitions = body(await api.QueryService_ListToolDefinitions({ server: event.server, name: event.target }));
out.emitters = body(await api.QueryService_ListEmitters({})).emitters;
try {
  await api.QueryService_ListEvents({ filter: "severity = 1" });
} catch (error) {
  out.refused = { status: error.status, ...error.response.body };
}
console.log(JSON.stringify(out));
