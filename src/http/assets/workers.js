// The pages for all workers by host, and for one worker.

import * as actions from "./actions.js";
import { change, readable } from "./address.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { bytes, duration, failures, number, plural, shortDuration, shortRelative, visible } from "./format.js";
import { rulesTable } from "./server.js";
import { ago, badge, button, card, counted, empty, facts, failureCount, fitsFilter, functionLink, jobLink, lasting, menuButton, name, progressBar, redraw, searchField, segments, table } from "./ui.js";

// Workers are requested in pages, up to this total; beyond it a filter is needed.
const PAGE = 500;
const MOST = 1000;
// Maximum number of function names in a row.
const NAMES = 2;

const STATES = ["", "working", "waiting", "asleep", "woken", "draining", "drained", "disabled"];

// Failures of any kind, of a worker or of one of its functions.
const failed = { id: "failed", label: "Failed", title: "Failed, with an exception, or timed out", number: true, value: ({ totals }) => failures(totals), cell: ({ totals }) => failureCount(totals) };

export function workerList(_, query) {
  const state = { workers: null, more: false };
  const chosen = query.get("state") ?? "";
  const path = (after) => {
    const filters = [`limit=${PAGE}`];
    for (const key of ["function", "host", "client", "state"]) {
      if (query.has(key)) {
        filters.push(`${key}=${query.get(key)}`);
      }
    }
    return `/workers?${filters.join("&")}${after ? `&after=${encodeURIComponent(after)}` : ""}`;
  };
  return {
    title: "Workers",
    nav: "workers",
    async load(signal) {
      const found = [];
      let after = null;
      do {
        const page = await get(path(after), signal);
        found.push(...page.workers);
        after = page.next;
      } while (after !== null && found.length < MOST);
      Object.assign(state, { workers: found, more: after !== null });
    },
    view() {
      const narrowed = ["function", "host", "client"].filter((key) => query.has(key));
      const head = h("div.page-head", null, h("h1", { tabindex: "-1" }, "Workers"),
        searchField("Filter workers"),
        h("label.select", null, h("span.hidden", null, "State"),
          h("select", { value: chosen, on: { change: (event) => change({ state: event.target.value }) } },
            STATES.map((word) => h("option", { key: word, value: word }, word === "" ? "Any state" : word)))));
      const narrow = narrowed.length > 0 && h("p.filters", { key: "filters" }, narrowed.map((key) =>
        h("span.chip", { key }, `${key} `, name(readable(query.get(key))),
          h("button.close", { type: "button", "aria-label": `Remove the filter by ${key}`, on: { click: () => change({ [key]: "" }) } }, "×"))));
      return [head, narrow, list(state, chosen !== "" || narrowed.length > 0)];
    },
  };
}

function list({ workers, more }, filtered) {
  if (!workers) {
    return h("p.muted", { key: "loading" }, "Loading…");
  }
  if (workers.length === 0) {
    return filtered
      ? empty("No such worker.", "None fits the filters now.")
      : empty("No workers yet.", `Point one at this host's Gearman port, for example: gearman -w -h ${location.hostname} -f reverse rev`);
  }
  const fits = (worker) => fitsFilter(...[worker.id, worker.address, worker.client_id ?? "", worker.tls_name ?? "", worker.state, worker.job ?? "", ...worker.functions.map((fn) => fn.name)]);
  const shown = workers.filter(fits);
  if (shown.length === 0) {
    return empty("No worker fits.", `${plural(workers.length, "worker")} in all. Clear the filter to see them.`);
  }
  return [
    more && h("p.notice.info", { key: "more" }, `These are the first ${number(workers.length)} workers. Choose a state or a host to see others.`),
    card("Workers by host", { class: "bare" }, workerTable(byHost(shown))),
  ];
}

function byHost(workers) {
  const hosts = new Map();
  for (const worker of workers) {
    if (!hosts.has(worker.address)) {
      hosts.set(worker.address, []);
    }
    hosts.get(worker.address).push({ ...worker, key: worker.id });
  }
  return [...hosts].sort(([one], [other]) => (one < other ? -1 : 1)).map(([host, rows]) => ({ key: host, head: hostHead(host, rows), rows }));
}

function hostHead(host, workers) {
  const running = workers.reduce((sum, worker) => sum + worker.running, 0);
  const who = { host };
  return h("div.group-head", null,
    h("strong", null, name(host)),
    h("span.muted", null, `${plural(workers.length, "worker")}, ${plural(running, "job")} running`),
    actions.mayAct() && h("span.buttons.small", null,
      button("Drain host…", () => actions.setModeOfMany("drain", who), { id: "drain-host", title: "No new jobs; running ones are finished. Holds for workers that come later too." }),
      button("Disable host…", () => actions.setModeOfMany("disable", who), { id: "disable-host" }),
      button("Enable host", () => actions.setMode("enable", who), { id: "enable-host" }),
      button("Kick host…", () => actions.kick(who, `all workers of ${visible(host)}`), { id: "kick-host", kind: "danger" })));
}

function workerTable(groups) {
  const total = (id, label, read) => ({ id, label, number: true, value: read, cell: (worker) => counted(read(worker)) });
  return table({
    id: "workers",
    label: "Workers by host",
    by: "id",
    down: false,
    groups,
    columns: [
      { id: "id", label: "Worker", head: true, value: (worker) => worker.connected_unix_ms, cell: (worker) => h("a.code", { href: `#/workers/${worker.id}` }, worker.id) },
      { id: "client", label: "Client id", flex: true, value: (worker) => worker.client_id ?? "", cell: (worker) => (worker.client_id === null ? "–" : name(worker.client_id)) },
      { id: "state", label: "State", value: (worker) => worker.state, cell: (worker) => badge(worker.state) },
      { id: "functions", label: "Functions", flex: true, cell: functionNames },
      { id: "job", label: "Running", flex: true, cell: (worker) => (worker.job === null ? "–" : [jobLink(worker.job), worker.running > 1 && h("span.muted", null, ` +${worker.running - 1}`)]) },
      { id: "since", label: "Since", number: true, value: (worker) => (worker.since_unix_ms === null ? -1 : -worker.since_unix_ms), cell: (worker) => lasting(worker.since_unix_ms) },
      total("done", "Done", (worker) => worker.totals.done),
      failed,
      { ...total("requeued", "Requeued", (worker) => worker.totals.requeued), class: "less" },
      { id: "p50", label: "p50", number: true, value: (worker) => worker.run.p50_s, cell: (worker) => shortDuration(worker.run.p50_s) },
      { id: "p99", label: "p99", number: true, value: (worker) => worker.run.p99_s, cell: (worker) => shortDuration(worker.run.p99_s) },
      { id: "actions", label: "", class: "actions", cell: (worker) => actions.mayAct() && menuButton(`Actions for worker ${worker.id}`, () => rowActions(worker)) },
    ],
  });
}

function rowActions(worker) {
  const own = actions.workerActions({ connection: worker.id }, `worker ${worker.id}`, actions.getsNoJobs(worker), () => actions.enable(worker));
  if (worker.client_id === null) {
    return own;
  }
  const who = worker.client_id_base64 ? { client_base64: worker.client_id_base64 } : { client: worker.client_id };
  return [
    ...own,
    ["Drain all of this client id…", () => actions.setModeOfMany("drain", who)],
    ["Enable all of this client id", () => actions.setMode("enable", who)],
  ];
}

function functionNames(worker) {
  const used = worker.functions.filter((fn) => fn.in_use);
  const shown = used.slice(0, NAMES).map((fn) => h("span.function", { key: fn.id }, functionLink(fn.id, fn.name)));
  const rest = used.slice(NAMES).map((fn) => visible(fn.name)).join(", ");
  return h("span.functions", null, shown.length > 0 ? shown : "–", rest && h("span.muted", { title: rest, key: "rest" }, `+${used.length - NAMES}`));
}

export function oneWorker([encoded]) {
  const id = readable(encoded);
  const state = { worker: null, gone: false };
  const shown = { all: "used" };
  return {
    title: `Worker ${id}`,
    nav: "workers",
    async load(signal) {
      try {
        state.worker = await get(`/workers/${encodeURIComponent(id)}`, signal);
        state.gone = false;
      } catch (error) {
        if (error.status !== 404) {
          throw error;
        }
        state.gone = true;
      }
    },
    view() {
      const { worker, gone } = state;
      if (!worker) {
        return [h("h1", { tabindex: "-1" }, `Worker ${visible(id)}`), gone
          ? empty("There is no such worker.", "Its connection has ended. ", h("a", { href: "#/workers" }, "See all workers"))
          : h("p.muted", null, "Loading…")];
      }
      return [workerHead(worker, gone), aboutCards(worker), !gone && rulesCard(worker), heldCard(worker, gone), functionsCard(worker, shown)];
    },
  };
}

function workerHead(worker, gone) {
  const who = { connection: worker.id };
  const withoutJobs = actions.getsNoJobs(worker);
  return h("div.page-head", null,
    h("div.title", null,
      h("p.crumbs", null, h("a", { href: "#/workers" }, "Workers"), " / ", h("a", { href: `#/workers?host=${encodeURIComponent(worker.address)}` }, name(worker.address))),
      h("h1", { tabindex: "-1" }, "Worker ", h("span.code", null, worker.id), gone ? h("span.badge", null, "disconnected") : badge(worker.state))),
    actions.mayAct() && !gone && h("div.buttons", null,
      !withoutJobs && button("Drain", () => actions.setMode("drain", who), { title: "No new jobs; running ones are finished" }),
      !withoutJobs && button("Disable", () => actions.setMode("disable", who), { title: "No more jobs" }),
      withoutJobs && button("Enable", () => actions.enable(worker), { kind: "solid" }),
      button("Kick…", () => actions.kick(who, `worker ${worker.id}`), { id: "kick", kind: "danger" })));
}

function aboutCards(worker) {
  const { totals, run } = worker;
  return h("div.columns", { key: "about" },
    card("Connection", null, facts([
      ["Host", name(worker.address)],
      ["Client id", worker.client_id === null ? "none" : name(worker.client_id)],
      ["TLS name", worker.tls_name === null ? "none" : name(worker.tls_name)],
      ["Connected", ago(worker.connected_unix_ms)],
      ["Last heard from", ago(worker.heard_unix_ms)],
      ["Descriptor", String(worker.file_descriptor)],
    ])),
    card("Work", null, facts([
      ["Done", h("span", { "data-value": "done" }, number(totals.done))],
      ["Failed", h("span", { "data-value": "failed" }, failureCount(totals))],
      ["Requeued", number(totals.requeued)],
      ["Run time", `mean ${duration(run.mean_s)}, p50 ${duration(run.p50_s)}, p99 ${duration(run.p99_s)}`],
    ])));
}

// The rules that apply to this worker, by its connection, client id or host.
function rulesCard({ rules }) {
  return rules?.length > 0 && card("Worker rules", { key: "rules" }, rulesTable("worker-rules", rules));
}

function heldCard(worker, gone) {
  const jobs = gone ? [] : worker.jobs ?? [];
  if (jobs.length === 0) {
    return card("Jobs it holds", null, empty(gone ? "Its connection has ended." : "It holds no job.", gone ? "What it held went back to the queue." : "The next one shows here at once."));
  }
  return card("Jobs it holds", null, table({
    id: "held",
    label: "Jobs that this worker holds",
    sortable: false,
    rows: jobs.map((job) => ({ ...job, key: job.handle })),
    columns: [
      { id: "handle", label: "Job", head: true, flex: true, cell: (job) => jobLink(job.handle) },
      { id: "function", label: "Function", flex: true, cell: (job) => functionLink(job.function_id, job.function) },
      { id: "since", label: "Since", number: true, cell: (job) => lasting(job.since_unix_ms) },
      { id: "progress", label: "Progress", cell: (job) => (job.progress ? progressBar(job.progress.numerator, job.progress.denominator) : "–") },
      { id: "deadline", label: "Deadline", number: true, cell: (job) => (job.deadline_unix_ms === null ? "none" : shortRelative(job.deadline_unix_ms)) },
      { id: "attempts", label: "Lost before", number: true, cell: (job) => number(job.attempts) },
      { id: "bytes", label: "Size", number: true, cell: (job) => bytes(job.workload_bytes) },
      { id: "actions", label: "", class: "actions", cell: (job) => actions.mayAct() && menuButton(`Actions for ${job.handle}`, () => actions.jobActions(job)) },
    ],
  }));
}

function functionsCard(worker, shown) {
  const dropped = worker.functions.filter((fn) => !fn.in_use).length;
  const rows = worker.functions.filter((fn) => shown.all === "all" || fn.in_use).map((fn) => ({ ...fn, key: fn.id }));
  const total = (id, label) => ({ id, label, number: true, value: (fn) => fn.totals[id], cell: (fn) => counted(fn.totals[id]) });
  const choice = dropped > 0 && segments("Functions", [["used", "In use"], ["all", `All (${dropped} dropped)`]], shown.all, (value) => { shown.all = value; redraw(); });
  return card("Functions", { actions: choice }, rows.length === 0 ? empty("No functions.", "It has unregistered all of them.") : table({
    id: "worker-functions",
    label: "Functions of this worker",
    by: "name",
    down: false,
    rows,
    columns: [
      { id: "name", label: "Function", head: true, flex: true, value: (fn) => fn.name, cell: (fn) => [functionLink(fn.id, fn.name), !fn.in_use && h("span.badge", { title: "It could do this before" }, "not in use"), fn.mode && badge(fn.mode)] },
      total("done", "Done"), failed, total("requeued", "Requeued"),
      { id: "mean", label: "Mean", number: true, value: (fn) => fn.run.mean_s, cell: (fn) => shortDuration(fn.run.mean_s) },
      { id: "p50", label: "p50", number: true, value: (fn) => fn.run.p50_s, cell: (fn) => shortDuration(fn.run.p50_s) },
      { id: "p99", label: "p99", number: true, value: (fn) => fn.run.p99_s, cell: (fn) => shortDuration(fn.run.p99_s) },
      { id: "actions", label: "", class: "actions", cell: (fn) => actions.mayAct() && menuButton(`Actions for ${visible(fn.name)} at this worker`, () => [
        fn.mode && ["Enable", () => actions.enable(worker, fn)],
        fn.mode !== "draining" && ["Drain", () => actions.setMode("drain", { connection: worker.id }, fn)],
        fn.mode !== "disabled" && ["Disable", () => actions.setMode("disable", { connection: worker.id }, fn)],
      ]) },
    ],
  }));
}
