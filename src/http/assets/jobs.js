// Jobs, found by function, state, unique id, client and age; and one of them with its timeline.

import * as actions from "./actions.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { age, bytes, exactTime, number, parseSeconds, relative, since, time, visible } from "./format.js";
import { shownAs } from "./preview.js";
import { badge, button, card, empty, facts, functionLink, jobLink, lasting, link, menuButton, name, progressBar, segments, table, workerLink } from "./ui.js";

const PAGE = 50;
// Looking takes pauses, so a page may be empty though there are more; so many are asked for at once.
const EMPTY_PAGES = 20;
const FIRST_PREVIEW = 1024;
const MOST_PREVIEW = 65_536;

const FILTERS = ["function", "state", "unique", "client", "older_than_s"];

function readable(encoded) {
  try {
    return decodeURIComponent(encoded);
  } catch {
    return encoded;
  }
}

export function jobList(_, query, go) {
  const state = { jobs: null, next: null };
  const filters = Object.fromEntries(FILTERS.filter((key) => query.has(key)).map((key) => [key, query.get(key)]));
  const parts = Object.entries(filters).map(([key, value]) => `${key}=${value}`);
  return {
    title: "Jobs",
    nav: "jobs",
    async load(signal) {
      let after = query.get("after") ?? null;
      let page = null;
      for (let tries = 0; tries < EMPTY_PAGES; tries += 1) {
        page = await get(`/jobs?${[...parts, `limit=${PAGE}`, after === null ? "" : `after=${after}`].filter(Boolean).join("&")}`, signal);
        after = page.next === null ? null : encodeURIComponent(page.next);
        if (page.jobs.length > 0 || after === null) {
          break;
        }
      }
      Object.assign(state, { jobs: page.jobs, next: after });
    },
    view() {
      return [
        h("div.page-head", null, h("h1", { tabindex: "-1" }, "Jobs")),
        filterForm(query, filters, go),
        state.jobs ? jobTable(state, filters, query, go) : h("p.muted", null, "Loading…"),
      ];
    },
  };
}

function filterForm(query, filters, go) {
  const shown = (key) => readable(query.get(key) ?? "");
  const input = (label, key, props) => h("label.field", { key }, h("span.field-label", null, label), h("input", { name: key, value: shown(key), autocomplete: "off", spellcheck: "false", ...props }));
  const submit = (event) => {
    event.preventDefault();
    const typed = Object.fromEntries(new FormData(event.target).entries());
    const wanted = {};
    for (const [key, value] of Object.entries(typed)) {
      // What was not touched stays as it was: it may be no UTF-8.
      wanted[key] = value === shown(key) ? (query.get(key) ?? "") : encodeURIComponent(value);
    }
    if (typed.older_than_s !== "") {
      const seconds = parseSeconds(typed.older_than_s);
      wanted.older_than_s = seconds === null ? "" : String(seconds);
    }
    go("jobs", wanted);
  };
  return h("form.filter-form", { key: "filters", on: { submit } },
    input("Function", "function", { "data-filter": "", type: "search" }),
    h("label.field", { key: "state" }, h("span.field-label", null, "State"), h("select", { name: "state", value: shown("state"), on: { change: (event) => event.target.form.requestSubmit() } },
      ["", "queued", "running", "scheduled"].map((word) => h("option", { key: word, value: word }, word === "" ? "Any" : word)))),
    input("Unique id", "unique", { type: "search" }),
    input("Held by client id", "client", { type: "search" }),
    input("Older than", "older_than_s", { placeholder: "90s, 5m, 2h, 1d", pattern: "\\s*\\d+(\\.\\d+)?\\s*(s|m|min|h|d)?\\s*" }),
    h("div.buttons", { key: "buttons" },
      h("button.button.solid", { type: "submit", "data-action": "filter" }, "Filter"),
      Object.keys(filters).length > 0 && link("#/jobs", "Clear")));
}

function jobTable({ jobs, next }, filters, query, go) {
  const first = !query.has("after");
  const pager = h("div.pager", { key: "pager" },
    !first && button("First page", () => go("jobs", filters), { id: "first-page" }),
    next !== null && button("Next page", () => go("jobs", { ...filters, after: next }), { id: "next-page" }));
  if (jobs.length === 0) {
    const filtered = Object.keys(filters).length > 0;
    return [empty(filtered ? "No job fits." : "No jobs.", filtered ? "Clear a filter to see others. Jobs that have ended are not kept." : "None waits, runs or is scheduled. ", !filtered && link("#/submit", "Submit one")), pager];
  }
  return [card("Jobs found", { class: "bare" }, table({
    id: "jobs",
    label: "Jobs",
    sortable: false,
    rows: jobs.map((job) => ({ ...job, key: job.handle })),
    columns: [
      { id: "handle", label: "Job", head: true, cell: (job) => jobLink(job.handle) },
      { id: "function", label: "Function", cell: (job) => functionLink(job.function_id, job.function) },
      { id: "state", label: "State", cell: (job) => badge(job.state) },
      { id: "priority", label: "Priority", cell: (job) => job.priority },
      { id: "unique", label: "Unique id", cell: (job) => (job.unique === "" ? "–" : name(job.unique)) },
      { id: "age", label: "Age", number: true, cell: (job) => lasting(job.submitted_unix_ms) },
      { id: "due", label: "Due", number: true, cell: (job) => (job.due_unix_s === null ? "–" : relative(job.due_unix_s * 1000)) },
      { id: "holder", label: "Worker", cell: (job) => workerLink(job.holder) },
      { id: "progress", label: "Progress", cell: (job) => (job.progress ? progressBar(job.progress.numerator, job.progress.denominator) : "–") },
      { id: "attempts", label: "Lost", number: true, cell: (job) => number(job.attempts) },
      { id: "clients", label: "Clients", number: true, cell: (job) => number(job.clients) },
      { id: "bytes", label: "Size", number: true, cell: (job) => bytes(job.workload_bytes) },
      { id: "actions", label: "", class: "actions", cell: (job) => actions.mayAct() && menuButton(`Actions for ${job.handle}`, () => actions.jobActions(job)) },
    ],
  })), pager];
}

export function oneJob([encoded]) {
  const handle = readable(encoded);
  const state = { job: null, ended: false, endedAt: 0, most: FIRST_PREVIEW, form: null };
  return {
    title: `Job ${visible(handle)}`,
    nav: "jobs",
    async load(signal) {
      try {
        state.job = await get(`/jobs/${encodeURIComponent(handle)}?preview=${state.most}`, signal);
        state.ended = false;
      } catch (error) {
        if (error.status !== 404) {
          throw error;
        }
        state.endedAt ||= Date.now();
        state.ended = true;
      }
    },
    view() {
      const { job, ended } = state;
      if (!job) {
        return [h("h1", { tabindex: "-1" }, "Job ", name(handle)), ended
          ? empty("There is no such job.", "It has ended, or it never was. Jobs that have ended are not kept. ", link("#/jobs", "See all jobs"))
          : h("p.muted", null, "Loading…")];
      }
      return [
        jobHead(job, ended),
        timeline(job, ended, state.endedAt),
        h("div.columns", { key: "about" }, aboutCard(job, ended), stateCard(job, ended)),
        workloadCard(job, state, () => this.refresh()),
      ];
    },
  };
}

function jobHead(job, ended) {
  const movable = job.state !== "running";
  return h("div.page-head", null,
    h("div.title", null,
      h("p.crumbs", null, link("#/jobs", "Jobs"), " / ", functionLink(job.function_id, job.function)),
      h("h1", { tabindex: "-1" }, name(job.handle, { class: "code" }), ended ? h("span.badge", null, "ended") : badge(job.state))),
    actions.mayAct() && !ended && h("div.buttons", null,
      job.state === "scheduled" && button("Run now", () => actions.runNow(job), { id: "run-now", kind: "solid" }),
      movable && h("div.segments", { role: "group", "aria-label": "Priority", key: "priority" }, ["high", "normal", "low"].map((priority) =>
        h("button", { type: "button", key: priority, "aria-pressed": String(job.priority === priority), "data-action": `priority ${priority}`, on: { click: () => job.priority !== priority && actions.setPriority(job, priority) } }, priority))),
      movable && button("Move…", () => actions.moveJob(job), { id: "move" }),
      button("Cancel…", () => actions.cancelJob(job), { id: "cancel", kind: "danger" })));
}

// What happened and what will, in order: [label, unix ms or null, what stands there, tone].
function steps(job, ended, endedAt) {
  const waits = (from, to) => (from === null || to === null ? "" : `after ${age((to - from) / 1000)}`);
  const due = job.due_unix_s === null ? null : job.due_unix_s * 1000;
  const running = job.state === "running";
  const progress = job.progress;
  return [
    ["Submitted", job.submitted_unix_ms, job.submitted_unix_ms === null ? "time not known" : relative(job.submitted_unix_ms), "past"],
    due !== null && ["Due", due, job.state === "scheduled" ? relative(due) : "", job.state === "scheduled" ? "now" : "past"],
    job.state === "queued" && !ended && ["Waits for a worker", null, job.submitted_unix_ms === null ? "" : `for ${since(Math.max(job.submitted_unix_ms, due ?? 0))}`, "now"],
    job.since_unix_ms !== null && ["Started", job.since_unix_ms, waits(Math.max(job.submitted_unix_ms ?? 0, due ?? 0) || null, job.since_unix_ms), "past"],
    job.state !== "running" && !ended && ["Start", null, "", "future"],
    running && !ended && ["Runs", null, progress ? progressBar(progress.numerator, progress.denominator) : `for ${since(job.since_unix_ms)}`, "now"],
    running && !ended && job.deadline_unix_ms !== null && ["Deadline", job.deadline_unix_ms, relative(job.deadline_unix_ms), "future"],
    ended ? ["Ended", endedAt, "noticed then", "past"] : ["End", null, "", "future"],
  ].filter(Boolean);
}

function timeline(job, ended, endedAt) {
  return card("Timeline", null, h("ol.timeline", null, steps(job, ended, endedAt).map(([label, at, note, tone]) =>
    h("li", { key: label, class: `step-${tone}`, "aria-current": tone === "now" ? "step" : undefined },
      h("strong", null, label),
      h("span", null, at === null ? "\u00a0" : h("time", { datetime: exactTime(at), title: exactTime(at) }, time(at))),
      h("span.muted", null, note)))));
}

function aboutCard(job) {
  return card("Job", null, facts([
    ["Function", functionLink(job.function_id, job.function)],
    ["Unique id", job.unique === "" ? "none" : name(job.unique)],
    ["Priority", h("span", { "data-value": "priority" }, job.priority)],
    ["Kind", job.background ? "background: it lives on without its client" : "foreground"],
    ["Clients that wait", number(job.clients)],
    ["Workload", job.workload_bytes === null ? "in the store" : bytes(job.workload_bytes)],
  ]));
}

function stateCard(job, ended) {
  return card("State", null, facts([
    ["Worker", job.holder && !ended ? workerLink(job.holder) : "none"],
    ["Workers lost with it", number(job.attempts)],
    ["Kept in the store", job.stored ? "yes" : "no"],
    ["Age", lasting(job.submitted_unix_ms)],
    ["Due", job.due_unix_s === null ? "at once" : `${time(job.due_unix_s * 1000)} (${relative(job.due_unix_s * 1000)})`],
    ["Deadline", job.deadline_unix_ms === null ? "none" : relative(job.deadline_unix_ms)],
  ]));
}

function workloadCard(job, state, refresh) {
  const { preview } = job;
  if (!preview) {
    return card("Workload", null, empty("The workload is not in memory.", "It is in the store and is read when a worker takes the job."));
  }
  const form = state.form ?? (preview.encoding === "text" ? "text" : "hex");
  const more = preview.truncated && state.most < MOST_PREVIEW;
  return card("Workload", { actions: segments("Shown as", [["text", "Text"], ["hex", "Hex"], ["base64", "Base64"]], form, (value) => { state.form = value; }) },
    preview.content === ""
      ? empty("The workload is empty.")
      : h("pre.workload", { tabindex: "0", dir: "ltr", "aria-label": "Workload" }, h("bdi", null, shownAs(preview, form))),
    preview.truncated && h("p.muted", { key: "truncated" }, `The beginning of ${bytes(job.workload_bytes)}. `,
      more && button("Show more", () => { state.most = MOST_PREVIEW; refresh(); }, { id: "show-more", kind: "small" })));
}
