// The pages for all functions and for one function.

import * as actions from "./actions.js";
import { functionPath, get, segment } from "./api.js";
import { Chart, historyTimes, isOld } from "./chart.js";
import { h, widget } from "./dom.js";
import { age, brief, bytes, duration, durationMark, failures, mark, number, plural, rate, serverNow, shortAge, shortDuration, visible } from "./format.js";
import { jobsInOrder } from "./jobs.js";
import { readablePreview } from "./preview.js";
import { badge, button, card, count, counted, depthBar, empty, facts, failureCount, fitsFilter, functionLink, jobLink, link, menuButton, name, redraw, searchField, table, workerLink, lasting } from "./ui.js";

const queuedOf = (fn) => fn.queued.high + fn.queued.normal + fn.queued.low;

const priorities = ({ queued }) => `${number(queued.high)} high, ${number(queued.normal)} normal, ${number(queued.low)} low`;

export function functionList() {
  let functions = null;
  return {
    title: "Functions",
    nav: "functions",
    async load(signal) {
      ({ functions } = await get("/functions", signal));
    },
    view() {
      const head = h("div.page-head", null, h("h1", { tabindex: "-1" }, "Functions"),
        searchField("Filter functions"),
        actions.mayAct() && button("Create…", actions.createFunction, { id: "create" }));
      if (!functions) {
        return [head, h("p.muted", null, "Loading…")];
      }
      if (functions.length === 0) {
        return [head, empty("No functions yet.", "They come with the first job or worker. ", link("#/submit", "Submit a job"), " to try.")];
      }
      const shown = functions.filter((fn) => fitsFilter(fn.name));
      return [head, shown.length === 0 ? empty("No function has this in its name.", `${plural(functions.length, "function")} in all. Clear the filter to see them.`) : functionTable(shown)];
    },
  };
}

function functionTable(functions) {
  const rows = functions.map((fn) => ({ ...fn, key: fn.id, all: queuedOf(fn) }));
  const most = Math.max(...rows.map((row) => row.all));
  const numeric = (id, label, value, format, title, kind) => ({ id, label, title, number: true, class: kind, value, cell: (fn) => format(value(fn)) });
  return card("All functions", { class: "bare" }, table({
    id: "functions",
    label: "Functions",
    by: "queued",
    rows,
    columns: [
      { id: "name", label: "Function", head: true, flex: true, value: (fn) => fn.name, cell: (fn) => [functionLink(fn.id, fn.name), fn.paused && badge("paused"), fn.settings_only && badge("awaited"), fn.max_running > 0 && h("span.badge", { title: "Most that run at once" }, `≤ ${fn.max_running}`)] },
      { id: "queued", label: "Queued", number: true, class: "wide", value: (fn) => fn.all, cell: (fn) => [depthBar(fn.all, most), count(fn.all, `${number(fn.all)}: ${priorities(fn)}`)] },
      numeric("high", "High", (fn) => fn.queued.high, brief, "Queued with high priority", "less"),
      numeric("normal", "Normal", (fn) => fn.queued.normal, brief, "Queued with normal priority", "less"),
      numeric("low", "Low", (fn) => fn.queued.low, brief, "Queued with low priority", "less"),
      numeric("scheduled", "Sched.", (fn) => fn.scheduled, brief, "Not due yet"),
      numeric("running", "Running", (fn) => fn.running, brief),
      numeric("workers", "Workers", (fn) => fn.workers, brief),
      numeric("oldest", "Oldest", (fn) => fn.oldest_queued_s, shortAge, "Age of the oldest job that waits"),
      numeric("in", "In/s", (fn) => fn.rates.in_per_s, rate),
      numeric("out", "Out/s", (fn) => fn.rates.out_per_s, rate),
      numeric("failed", "Failed/s", (fn) => fn.rates.failed_per_s, rate),
      numeric("p50", "p50", (fn) => fn.run.p50_s, shortDuration, "Median running time"),
      numeric("p99", "p99", (fn) => fn.run.p99_s, shortDuration, "99th percentile of the running time"),
      { id: "actions", label: "", class: "actions", cell: (fn) => actions.mayAct() && menuButton(`Actions for ${visible(fn.name)}`, () => functionActions(fn)) },
    ],
  }));
}

function functionActions(fn) {
  return [
    [fn.paused ? "Resume" : "Pause", () => actions.pause(fn)],
    ["Limits…", () => actions.limits(fn)],
    ["Move all jobs…", () => actions.moveAll(fn)],
    ["Cancel all jobs…", () => actions.purge(fn), { danger: true }],
    ["Forget…", () => actions.dropFunction(fn), { danger: true }],
  ];
}

// Maximum number of workers and jobs shown.
const SHOWN = 50;
const JOBS_SHOWN = 20;
// Redraw after this many previews, since each needs a separate request.
const PREVIEWS_AT_ONCE = 5;
const PREVIEW_BYTES = 120;
// Maximum number of failed previews per refresh: if the store does not answer, the rest is not requested.
const MOST_MISSES = 2;

export function oneFunction([id]) {
  const state = { fn: null, at: 0, history: null, workers: [], jobs: [], more: false, previews: new Map(), missing: false };
  return {
    title: "Function",
    nav: "functions",
    async load(signal) {
      try {
        state.fn = await get(functionPath(id), signal);
        state.at = serverNow();
        state.missing = false;
      } catch (error) {
        state.missing = error.status === 404;
        if (!state.missing) {
          throw error;
        }
        return;
      }
      const [history, workers, jobs] = await Promise.all([
        isOld(state.history) ? get(functionPath(id, "/history"), signal) : state.history,
        get(`/workers?function=${id}&limit=${SHOWN}`, signal),
        jobsInOrder([`function=${id}`], JOBS_SHOWN, null, signal, { running: state.fn.running, queued: queuedOf(state.fn), scheduled: state.fn.scheduled }),
      ]);
      Object.assign(state, { history, workers: workers.workers, jobs: jobs.jobs, more: jobs.next !== null });
      redraw();
      await loadPreviews(state, signal);
    },
    view() {
      const { fn } = state;
      if (!fn) {
        return [h("h1", { tabindex: "-1" }, "Function"), state.missing
          ? empty("There is no such function.", "It may have been dropped. ", link("#/functions", "See all functions"))
          : h("p.muted", null, "Loading…")];
      }
      this.title = visible(fn.name);
      return [
        head(fn, state.missing),
        h("div.columns", { key: "numbers" }, nowCard(fn), totalsCard(fn)),
        charts(state),
        workersCard(fn, state.workers),
        jobsCard(fn, state),
      ];
    },
  };
}

// Workload previews and sizes for the jobs shown; the sizes are unknown for jobs that are only in the store.
// Each is requested once, or again at the next refresh if the store did not answer in time.
async function loadPreviews(state, signal) {
  const handles = new Set(state.jobs.map((job) => job.handle));
  for (const handle of state.previews.keys()) {
    if (!handles.has(handle)) {
      state.previews.delete(handle);
    }
  }
  const wantedNow = state.jobs.filter((job) => !state.previews.has(job.handle));
  let misses = 0;
  for (const [index, job] of wantedNow.entries()) {
    if (index > 0 && index % PREVIEWS_AT_ONCE === 0) {
      redraw();
    }
    try {
      const { preview, workload_bytes: size } = await get(`/jobs/${encodeURIComponent(job.handle)}?preview=${PREVIEW_BYTES}`, signal);
      if (!preview) {
        misses += 1;
        if (misses === MOST_MISSES) {
          return;
        }
        continue;
      }
      state.previews.set(job.handle, { preview, size });
    } catch (error) {
      if (error.name === "AbortError") {
        return;
      }
      // The job has ended meanwhile.
      state.previews.set(job.handle, null);
    }
  }
}

const shownPreview = (known) => readablePreview(known && known.preview);

function head(fn, missing) {
  return h("div.page-head", null,
    h("div.title", null,
      h("p.crumbs", null, link("#/functions", "Functions")),
      h("h1", { tabindex: "-1" }, name(fn.name), fn.paused && badge("paused"), fn.settings_only && badge("awaited"), missing && h("span.badge", null, "dropped"))),
    actions.mayAct() && h("div.buttons", null,
      button(fn.paused ? "Resume" : "Pause", () => actions.pause(fn), { id: "pause", kind: fn.paused ? "solid" : "" }),
      button("Limits…", () => actions.limits(fn), { id: "limits" }),
      button("Move all…", () => actions.moveAll(fn), { id: "move-all" }),
      button("Cancel all…", () => actions.purge(fn), { id: "purge", kind: "danger" }),
      button("Forget…", () => actions.dropFunction(fn), { id: "forget", kind: "danger" })));
}

function nowCard(fn) {
  return card("Now", null, facts([
    ["Queued", h("span", { "data-value": "queued" }, `${number(queuedOf(fn))} (${priorities(fn)})`)],
    ["Scheduled", number(fn.scheduled)],
    ["Running", h("span", { "data-value": "running" }, `${number(fn.running)}${fn.max_running > 0 ? ` of at most ${number(fn.max_running)}` : ""}`)],
    ["Workers", h("span", { "data-value": "workers" }, number(fn.workers))],
    ["Oldest waiting", age(fn.oldest_queued_s)],
    ["Rates", `${rate(fn.rates.in_per_s)}/s in, ${rate(fn.rates.out_per_s)}/s out, ${rate(fn.rates.failed_per_s)}/s failed`],
    ["Queue limits", fn.max_queue.some((most) => most > 0) ? fn.max_queue.map((most, index) => `${["high", "normal", "low"][index]} ${most > 0 ? number(most) : "none"}`).join(", ") : "none"],
  ]));
}

function totalsCard(fn) {
  const { totals } = fn;
  return card("Since the start", null, facts([
    ["Submitted", h("span", { "data-value": "submitted" }, `${number(totals.submitted)} (and ${number(totals.coalesced)} that joined an equal job)`)],
    ["Done", h("span", { "data-value": "done" }, number(totals.done))],
    ["Failed", `${number(totals.failed)}, with an exception ${number(totals.exceptions)}`],
    ["Timed out", `${number(totals.timed_out)}, requeued ${number(totals.requeued)}, given up ${number(totals.dropped)}`],
    ["Cancelled", h("span", { "data-value": "cancelled" }, `${number(totals.cancelled)}, abandoned by clients ${number(totals.abandoned)}`)],
    ["Wait p50 / p99", `${duration(fn.wait.p50_s)} / ${duration(fn.wait.p99_s)}`],
    ["Run p50 / p99", `${duration(fn.run.p50_s)} / ${duration(fn.run.p99_s)}`],
  ]));
}

// The depth charts extend to the current time, beyond the end of the history.
function charts({ fn, at, history }) {
  const times = history ? historyTimes(history) : [];
  const values = (key) => history?.[key] ?? [];
  return h("div.columns", { key: "charts" },
    card("Depth in the last hour", null, widget(Chart, "depth", {
      label: "Jobs that wait and run", times: [...times, Math.max(at, (times.at(-1) ?? 0) + 1)], format: brief, mark, least: 4,
      series: [
        { name: "Queued", tone: "four", values: [...values("queued"), queuedOf(fn)], area: true },
        { name: "Running", tone: "two", values: [...values("running"), fn.running] },
      ],
    })),
    card("Latency in the last hour", null, widget(Chart, "latency", {
      label: "How long jobs wait and run", times, format: duration, mark: durationMark, isTime: true, least: 0.001,
      series: [
        { name: "Run p50", tone: "one", values: values("run_p50_s") },
        { name: "Run p99", tone: "one", values: values("run_p99_s"), dashed: true },
        { name: "Wait p50", tone: "three", values: values("wait_p50_s") },
        { name: "Wait p99", tone: "three", values: values("wait_p99_s"), dashed: true },
      ],
    })));
}

// The failures of a worker at this function, of any kind.
const failed = ({ own }) => own && failures(own.totals);

// The state of a worker, and its state for this function if that differs.
function workerState({ state, own }) {
  const mode = own?.mode;
  const differs = mode && mode !== state && !(mode === "draining" && state === "drained");
  return [badge(state), own && !own.in_use && badge("dropped"), differs && h("span.badge", { class: `is-${mode}`, title: "Gets no jobs of this function" }, `${mode} here`)];
}

function workersCard(fn, workers) {
  if (workers.length === 0) {
    return card("Workers", null, empty("No worker can do this function.", "Start one that does, or move its jobs to another function."));
  }
  const rows = workers.map((worker) => ({ ...worker, key: worker.id, own: worker.functions.find((own) => own.id === fn.id) }));
  return card("Workers", { actions: fn.workers > SHOWN && link(`#/workers?function=${segment(fn.id)}`, "All workers") }, table({
    id: "function-workers",
    label: "Workers of this function",
    by: "state",
    down: false,
    rows,
    columns: [
      { id: "id", label: "Worker", head: true, value: (worker) => worker.id, cell: (worker) => workerLink(worker.id) },
      { id: "host", label: "Host", flex: true, value: (worker) => worker.address, cell: (worker) => name(worker.address) },
      { id: "client", label: "Client id", flex: true, value: (worker) => worker.client_id ?? "", cell: (worker) => (worker.client_id === null ? "–" : name(worker.client_id)) },
      { id: "state", label: "State", value: (worker) => worker.state, cell: workerState },
      { id: "since", label: "Running since", value: (worker) => worker.since_unix_ms, number: true, cell: (worker) => lasting(worker.since_unix_ms) },
      { id: "done", label: "Done", number: true, value: (worker) => worker.own?.totals.done, cell: (worker) => counted(worker.own?.totals.done) },
      { id: "failed", label: "Failed", title: "Failed, with an exception, or timed out", number: true, value: failed, cell: ({ own }) => (own ? failureCount(own.totals) : "–") },
      { id: "p99", label: "p99", number: true, value: (worker) => worker.own?.run.p99_s, cell: (worker) => shortDuration(worker.own?.run.p99_s) },
    ],
  }));
}

function jobsCard(fn, { jobs, more, previews }) {
  if (jobs.length === 0) {
    return card("Jobs", null, empty("No jobs.", "None waits, runs or is scheduled. ", link(`#/submit?function=${segment(fn.id)}`, "Submit one")));
  }
  return card("Jobs", { actions: more && link(`#/jobs?function=${segment(fn.id)}`, "All jobs") }, table({
    id: "function-jobs",
    label: "Jobs of this function",
    sortable: false,
    rows: jobs.map((job) => ({ ...job, key: job.handle })),
    columns: [
      { id: "handle", label: "Job", head: true, flex: true, cell: (job) => jobLink(job.handle) },
      { id: "state", label: "State", cell: (job) => badge(job.state) },
      { id: "priority", label: "Priority", cell: (job) => job.priority },
      { id: "unique", label: "Unique id", flex: true, cell: (job) => (job.unique === "" ? "–" : name(job.unique)) },
      { id: "age", label: "Age", number: true, cell: (job) => lasting(job.submitted_unix_ms) },
      { id: "holder", label: "Worker", cell: (job) => workerLink(job.holder) },
      { id: "bytes", label: "Size", number: true, cell: (job) => bytes(job.workload_bytes ?? previews.get(job.handle)?.size) },
      { id: "preview", label: "Workload", class: "preview-cell", cell: (job) => shownPreview(previews.get(job.handle)) },
      { id: "actions", label: "", class: "actions", cell: (job) => actions.mayAct() && menuButton(`Actions for ${job.handle}`, () => actions.jobActions(job)) },
    ],
  }));
}
