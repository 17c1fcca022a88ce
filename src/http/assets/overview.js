// The overview page: incoming and completed work, and jobs that wait too long.

import { get, live } from "./api.js";
import { Chart, historyTimes, isOld } from "./chart.js";
import { h, widget } from "./dom.js";
import { age, brief, bytes, duration, mark, number, plural, rate, shortAge, shortDuration, time } from "./format.js";
import { badge, card, count, depthBar, empty, facts, functionLink, link, segments, table, tile } from "./ui.js";

const MINUTES_10 = 600_000;
// Live events contain only the busiest functions. All functions are polled less often, for the notices.
const FUNCTIONS_MS = 10_000;
// Maximum number of functions named in a notice.
const NAMED = 3;
const STATES = ["working", "waiting", "woken", "asleep", "draining", "drained", "disabled"];

export function overview() {
  let history = null;
  let span = "10";
  let functions = null;
  let lookedAt = -FUNCTIONS_MS;
  return {
    title: "Overview",
    nav: "overview",
    async load(signal) {
      if (isOld(history)) {
        history = await get("/history", signal);
      }
      if (performance.now() - lookedAt > FUNCTIONS_MS) {
        ({ functions } = await get("/functions", signal));
        lookedAt = performance.now();
      }
    },
    view() {
      const server = live.server;
      if (!server) {
        return [h("h1", { tabindex: "-1" }, "Overview"), h("p.muted", null, "Waiting for the first numbers…")];
      }
      const recent = joined(history, span === "10");
      return [
        h("div.page-head", null, h("h1", { tabindex: "-1" }, "Overview"),
          segments("Time shown in the charts", [["10", "10 min"], ["60", "1 h"]], span, (value) => { span = value; })),
        notices(server, functions ?? live.top),
        tiles(server),
        h("div.columns", { key: "charts" },
          card("Throughput", null, widget(Chart, "throughput", throughput(recent))),
          card("Jobs", null, widget(Chart, "depth", depth(recent)))),
        h("div.columns", { key: "states" }, workersCard(server), storeCard(server)),
        busiest(),
      ];
    },
  };
}

// The history, followed by live values: times, and a list for each value.
function joined(history, short) {
  const rows = [];
  if (history) {
    const per = history.interval_s || 1;
    historyTimes(history).forEach((at, index) => {
      rows.push([at, history.submitted[index] / per, history.ended[index] / per, history.failed[index] / per, history.queued[index], history.running[index]]);
    });
  }
  const end = rows.at(-1)?.[0] ?? 0;
  rows.push(...live.points.filter(([at]) => at > end));
  const from = (rows.at(-1)?.[0] ?? 0) - MINUTES_10;
  const shown = short ? rows.filter(([at]) => at >= from) : rows;
  return Array.from({ length: 6 }, (_, column) => shown.map((row) => row[column]));
}

function throughput([times, came, ended, failed]) {
  return {
    label: "Jobs a second",
    times,
    format: (value) => (value === null || value === undefined ? "–" : `${rate(value)}/s`),
    mark: (value) => `${mark(value)}/s`,
    series: [
      { name: "In", tone: "one", values: came, area: true },
      { name: "Out", tone: "two", values: ended },
      { name: "Failed", tone: "three", values: failed, dashed: true },
    ],
  };
}

function depth([times, , , , queued, running]) {
  return {
    label: "Jobs that wait and run",
    times,
    format: brief,
    mark,
    least: 4,
    series: [
      { name: "Queued", tone: "four", values: queued, area: true },
      { name: "Running", tone: "two", values: running },
    ],
  };
}

const queuedOf = (fn) => fn.queued.high + fn.queued.normal + fn.queued.low;

// Why jobs of a function wait; the first match counts: tone, condition, text.
const REASONS = [
  ["warn", (fn) => fn.workers === 0, "and no worker can do them."],
  ["info", (fn) => fn.paused, (one) => (one ? "and it is paused." : "and they are paused.")],
  ["warn", ({ worker_states: states, workers }) => states.disabled + states.draining + states.drained >= workers, (one) => `and all ${one ? "its" : "their"} workers are disabled or drained.`],
];

// One notice for each reason that holds up jobs, for all of its functions. It names those with the longest
// queues.
function heldUp(functions) {
  const found = REASONS.map(() => []);
  for (const fn of functions.filter((candidate) => queuedOf(candidate) > 0)) {
    found[REASONS.findIndex(([, holds]) => holds(fn))]?.push(fn);
  }
  return REASONS.map(([tone, , said], index) => {
    const held = found[index].sort((one, other) => queuedOf(other) - queuedOf(one));
    const jobs = held.reduce((sum, fn) => sum + queuedOf(fn), 0);
    const rest = held.length - NAMED;
    return held.length > 0 && [tone, [
      `${plural(jobs, "job")} of `, held.length > 1 && `${plural(held.length, "function")} (`,
      held.slice(0, NAMED).map((fn, place) => [place > 0 && ", ", functionLink(fn.id, fn.name)]),
      rest > 0 && [" and ", link("#/functions", `${number(rest)} more`)], held.length > 1 && ")",
      ` ${jobs === 1 ? "waits" : "wait"}, ${typeof said === "string" ? said : said(held.length === 1)}`,
    ]];
  }).filter(Boolean);
}

function notices(server, functions) {
  const found = [];
  if (server.draining) {
    found.push(["warn", "The server is draining: it accepts no new jobs, and stops after the current ones."]);
  }
  if (server.store.state === "failing") {
    found.push(["bad", `The store is failing: ${server.store.error ?? "no reason is known"}. Background jobs are refused.`]);
  }
  if (server.store.state === "memory") {
    found.push(["warn", "Background jobs are in memory only: they are lost when the server ends."]);
  }
  // Live values of the busiest functions are more recent.
  const newer = new Map(live.top.map((fn) => [fn.id, fn]));
  const known = new Set(functions.map((fn) => fn.id));
  const all = [...live.top.filter((fn) => !known.has(fn.id)), ...functions.map((fn) => newer.get(fn.id) ?? fn)];
  found.push(...heldUp(all));
  return h("div.notices", { key: "notices" }, found.map(([tone, text], index) => h("p.notice", { key: index, class: tone }, text)));
}

function tiles(server) {
  const { rates, jobs, workers } = server;
  const all = STATES.reduce((sum, state) => sum + workers[state], 0);
  const oldest = server.oldest_queued_s;
  return h("div.tiles", { key: "tiles" },
    tile("In", rate(rates.in_per_s), { unit: "/s", note: `${brief(server.totals.submitted)} in all`, id: "in" }),
    tile("Out", rate(rates.out_per_s), { unit: "/s", note: `${brief(server.totals.done)} completed`, id: "out" }),
    tile("Failed", rate(rates.failed_per_s), { unit: "/s", note: `${brief(server.totals.failed + server.totals.exceptions)} in all`, tone: rates.failed_per_s > 0 ? "bad" : "", id: "failed" }),
    tile("Queued", brief(jobs.queued), { note: `${brief(jobs.scheduled)} scheduled`, href: "#/jobs?state=queued", id: "queued" }),
    tile("Running", brief(jobs.running), { note: "with workers", href: "#/jobs?state=running", id: "running" }),
    tile("Oldest waiting", oldest === null ? "none" : oldest < 1 ? duration(oldest) : shortAge(oldest), { note: "for a worker", id: "oldest" }),
    tile("Workers", brief(all), { note: `${brief(workers.working)} working`, href: "#/workers", id: "workers" }));
}

function workersCard(server) {
  const all = STATES.reduce((sum, state) => sum + server.workers[state], 0);
  if (all === 0) {
    return card("Workers", null, empty("No workers yet.", `Point one at this server's Gearman port, 4730 by default, for example: gearman -w -h ${location.hostname} -p PORT -f reverse rev`));
  }
  return card("Workers", null,
    h("div.stack", { role: "img", "aria-label": STATES.filter((state) => server.workers[state] > 0).map((state) => `${server.workers[state]} ${state}`).join(", ") },
      STATES.map((state) => server.workers[state] > 0 && h("span", { key: state, class: `is-${state}`, style: { "flex-grow": String(server.workers[state]) } }))),
    h("ul.states", null, STATES.map((state) => h("li", { key: state, class: server.workers[state] > 0 ? "" : "muted" },
      link(`#/workers?state=${state}`, badge(state)), h("span.number", { "data-value": `workers-${state}` }, number(server.workers[state]))))));
}

function storeCard(server) {
  const { store } = server;
  const kept = store.state === "memory";
  return card("Server", { actions: link("#/server", "Details") }, facts([
    ["Background jobs", kept ? "in memory: they are lost when the server ends" : [badge(store.state), " ", h("span.break", null, store.location)]],
    !kept && ["Changes waiting", number(store.waiting)],
    !kept && ["Mean commit", duration(store.mean_commit_s)],
    ["Connections", number(server.connections.open)],
    ["Memory", bytes(server.memory_bytes)],
    ["Up", h("span", { title: `since ${time(server.started_unix_ms)}` }, age(server.uptime_s))],
  ]));
}

function busiest() {
  const rows = live.top.slice(0, 10).map((fn) => ({ ...fn, key: fn.id, all: fn.queued.high + fn.queued.normal + fn.queued.low }));
  if (rows.length === 0) {
    return card("Busiest functions", null, empty("No functions yet.", "They come with the first job or worker. ", link("#/submit", "Submit a job"), " to try."));
  }
  const most = Math.max(...rows.map((row) => row.all));
  return card("Busiest functions", { actions: link("#/functions", "All functions") }, table({
    id: "busiest",
    label: "The busiest functions",
    sortable: false,
    rows,
    columns: [
      { id: "name", label: "Function", head: true, flex: true, cell: (fn) => [functionLink(fn.id, fn.name), fn.paused && badge("paused")] },
      { id: "queued", label: "Queued", number: true, class: "wide", cell: (fn) => [depthBar(fn.all, most), count(fn.all)] },
      { id: "running", label: "Running", number: true, cell: (fn) => number(fn.running) },
      { id: "workers", label: "Workers", number: true, cell: (fn) => number(fn.workers) },
      { id: "in", label: "In/s", number: true, cell: (fn) => rate(fn.rates.in_per_s) },
      { id: "out", label: "Out/s", number: true, cell: (fn) => rate(fn.rates.out_per_s) },
      { id: "oldest", label: "Oldest", number: true, cell: (fn) => shortAge(fn.oldest_queued_s) },
      { id: "p99", label: "Run p99", number: true, cell: (fn) => shortDuration(fn.run.p99_s) },
    ],
  }));
}
