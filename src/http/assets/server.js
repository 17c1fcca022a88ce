// The server page: process, connections, store, totals, and the rules that withhold jobs.

import * as actions from "./actions.js";
import { get, live } from "./api.js";
import { h } from "./dom.js";
import { age, bytes, duration, number, rate, time } from "./format.js";
import { badge, button, card, empty, facts, functionLink, link, name, table } from "./ui.js";

const PARTS = {
  jobs: "Jobs",
  waits: "Waiting clients",
  runs: "Running jobs",
  functions: "Functions",
  connections: "Connections",
  store_queue: "For the store",
  output: "To be sent",
  input: "Being received",
  results: "Large packets",
  http: "HTTP",
};

export function serverPage() {
  let rules = null;
  return {
    title: "Server",
    nav: "server",
    async load(signal) {
      ({ rules } = await get("/rules", signal));
    },
    view() {
      const { server } = live;
      if (!server) {
        return [h("h1", { tabindex: "-1" }, "Server"), h("p.muted", null, "Waiting for the first numbers…")];
      }
      return [
        h("div.page-head", null, h("h1", { tabindex: "-1" }, "Server", server.draining && badge("draining"))),
        h("div.columns", { key: "process" }, processCard(server), connectionsCard(server)),
        h("div.columns", { key: "held" }, jobsCard(server), heldCard(server.held)),
        h("div.columns", { key: "work" }, totalsCard(server), storeCard(server.store)),
        rulesCard(rules),
        interfacesCard(),
      ];
    },
  };
}

function processCard(server) {
  return card("Process", null, facts([
    ["Machine", live.hostName],
    ["Gearman on", h("span.break", null, live.addresses.join(", "))],
    ["Version", h("span", { "data-value": "version" }, server.version)],
    ["Process id", h("span", { "data-value": "pid" }, String(server.pid))],
    ["Started", time(server.started_unix_ms)],
    ["Up", age(server.uptime_s)],
    ["Memory", bytes(server.memory_bytes)],
    ["Lock taken", `${number(server.lock_acquisitions)} times`],
    ["Lock waited for", `${duration(server.lock_wait_s)} in all${server.lock_acquisitions > 0 ? `, ${duration(server.lock_wait_s / server.lock_acquisitions)} each` : ""}`],
    ["Workers woken", `${number(server.wakeups)} times`],
  ]));
}

function connectionsCard({ connections }) {
  return card("Connections", null, facts([
    ["Open", h("span", { "data-value": "open" }, number(connections.open))],
    ["Accepted", number(connections.accepted)],
    ["Refused", [number(connections.refused), h("span.muted", null, " because of the limit")]],
    ["Closed as slow", [number(connections.slow_readers), h("span.muted", null, " that did not read")]],
  ]));
}

// Empty parts are omitted: usually only three of the ten have a size.
function heldCard(held) {
  const parts = Object.entries(held.parts_bytes).filter(([, size]) => size > 0);
  return card("Memory held", null, facts([
    ["In all", h("span", { "data-value": "held" }, `${bytes(held.total_bytes)} of ${bytes(held.max_bytes)}`)],
    ...parts.map(([part, size]) => [PARTS[part] ?? part, bytes(size)]),
    ["Closed for it", [number(held.connections_closed), h("span.muted", null, " connections")]],
    ["Refused for it", [number(held.submissions_refused), h("span.muted", null, " submissions")]],
  ]));
}

function jobsCard({ functions, jobs }) {
  return card("Jobs now", null, facts([
    ["Queued", h("span", { "data-value": "jobs-queued" }, number(jobs.queued))],
    ["Scheduled", number(jobs.scheduled)],
    ["Running", number(jobs.running)],
    ["Functions", number(functions)],
  ]));
}

function totalsCard({ totals, rates }) {
  return card("Jobs since the start", null, facts([
    ["Submitted", h("span", { "data-value": "submitted" }, `${number(totals.submitted)} (now ${rate(rates.in_per_s)}/s)`)],
    ["Joined an equal job", number(totals.coalesced)],
    ["Done", h("span", { "data-value": "done" }, number(totals.done))],
    ["Failed", number(totals.failed)],
    ["With an exception", number(totals.exceptions)],
    ["Timed out", number(totals.timed_out)],
    ["Requeued", number(totals.requeued)],
    ["Given up", number(totals.dropped)],
    ["Cancelled", number(totals.cancelled)],
    ["Abandoned", [number(totals.abandoned), h("span.muted", null, " by their clients")]],
  ]));
}

function storeCard(store) {
  if (store.state === "memory") {
    return card("Store", null, empty("Background jobs are in memory.", "They are lost when the server ends. Start it with a queue (-q) to keep them."));
  }
  return card("Store", null, facts([
    ["State", [badge(store.state), store.error && h("span.break", null, ` ${store.error}`)]],
    ["Location", h("span.break", null, store.location)],
    ["Durability", h("span.break", null, store.durability)],
    ["Changes waiting", number(store.waiting)],
    ["Pending removals", number(store.pending_removals)],
    ["Jobs stored", number(store.added)],
    ["Jobs removed", number(store.removed)],
    ["Transactions", `${number(store.commits)}, of them synced ${number(store.syncs)}`],
    ["Mean transaction", duration(store.mean_commit_s)],
    ["Failures", number(store.failures)],
    store.free_bytes !== null && ["Disk", `${bytes(store.free_bytes)} free, ${bytes(store.reserve_bytes)} reserved for removals`],
    store.wal_bytes !== null && ["Write-ahead log", bytes(store.wal_bytes)],
  ]));
}

function rulesCard(rules) {
  if (!rules) {
    return card("Worker rules", null, h("p.muted", null, "Loading…"));
  }
  if (rules.length === 0) {
    return card("Worker rules", null, empty("All workers get jobs.", "Drain or disable a worker, a client id or a host, and the rule shows here until its workers are enabled."));
  }
  return card("Worker rules", null, rulesTable("rules", rules));
}

// The rules that withhold jobs from workers, each with a button to end it.
export function rulesTable(id, rules) {
  return table({
    id,
    label: "Rules by which workers get no jobs",
    sortable: false,
    rows: rules.map((rule) => ({ ...rule, key: `${rule.who_id} ${rule.function_id ?? ""}` })),
    columns: [
      { id: "who", label: "Workers", head: true, flex: true, cell: (rule) => name(rule.who) },
      { id: "function", label: "Function", flex: true, cell: (rule) => (rule.function === null ? "all" : functionLink(rule.function_id, rule.function)) },
      { id: "mode", label: "Mode", cell: (rule) => badge(rule.mode) },
      { id: "now", label: "Now", number: true, title: "How many workers the rule means now", cell: (rule) => (rule.workers === 0 ? h("span", { title: "It is kept for future connections" }, "none") : String(rule.workers)) },
      { id: "enable", label: "", class: "actions", cell: (rule) => actions.mayAct() && button("Enable", () => actions.enableRule(rule), { id: "enable-rule", kind: "small" }) },
    ],
  });
}

function interfacesCard() {
  return card("Interfaces", null, h("ul.links", null,
    h("li", null, link("/metrics", "/metrics"), h("span.muted", null, "for Prometheus")),
    h("li", null, link("/api/v1/openapi.json", "/api/v1/openapi.json"), h("span.muted", null, "description of the API")),
    h("li", null, link("/healthz", "/healthz"), h("span.muted", null, "liveness")),
    h("li", null, link("/readyz", "/readyz"), h("span.muted", null, "readiness"))));
}
