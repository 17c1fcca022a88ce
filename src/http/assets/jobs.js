// The pages for jobs by function, state, unique id, client and age, and for one job with its timeline.

import * as actions from "./actions.js";
import { go, readable } from "./address.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { age, bytes, exactTime, number, parseSeconds, relative, serverNow, shortRelative, since, time, visible } from "./format.js";
import { shownAs } from "./preview.js";
import { badge, button, card, empty, facts, functionLink, jobLink, lasting, link, menuButton, name, progressBar, segments, table, workerLink } from "./ui.js";

const PAGE = 50;
// The server pauses its search, so a page may have few jobs although there are more. This many pages are
// requested at most.
const EMPTY_PAGES = 20;
const FIRST_PREVIEW = 1024;
const MOST_PREVIEW = 65_536;

const FILTERS = ["function", "state", "unique", "client", "older_than_s"];

// Without a state filter, the jobs of a function are shown in this order.
const STAGES = ["running", "queued", "scheduled"];

// Requests up to `limit` jobs after the cursor `after`.
async function jobPage(parts, limit, after, signal) {
  // A job that moves meanwhile may appear twice.
  const found = new Map();
  let next = after;
  for (let tries = 0; tries < EMPTY_PAGES; tries += 1) {
    const page = await get(`/jobs?${[...parts, `limit=${limit - found.size}`, next ? `after=${next}` : ""].filter(Boolean).join("&")}`, signal);
    page.jobs.forEach((job) => found.set(job.handle, job));
    next = page.next === null ? null : encodeURIComponent(page.next);
    if (next === null || found.size >= limit) {
      break;
    }
  }
  return { jobs: [...found.values()], next };
}

// Up to `limit` jobs of a function: running ones, then queued ones in the order of execution, then scheduled
// ones. `after` and `next` consist of a stage and a cursor in it: "1.77". Stages without jobs according to
// `counts` are skipped.
export async function jobsInOrder(parts, limit, after, signal, counts = {}) {
  const [begin, cursor = ""] = (after ?? "0.").split(".", 2);
  const first = Number(begin);
  const found = new Map();
  for (let stage = first; stage < STAGES.length; stage += 1) {
    if (counts[STAGES[stage]] === 0) {
      continue;
    }
    const page = await jobPage([...parts, `state=${STAGES[stage]}`], limit - found.size, stage === first ? cursor : "", signal);
    page.jobs.forEach((job) => found.set(job.handle, job));
    if (page.next !== null || found.size >= limit) {
      const isLast = page.next === null && stage + 1 === STAGES.length;
      return { jobs: [...found.values()], next: isLast ? null : page.next === null ? `${stage + 1}.` : `${stage}.${page.next}` };
    }
  }
  return { jobs: [...found.values()], next: null };
}

// The note about the order of the jobs.
function orderNote({ function: fn, state }) {
  if (fn && !state) {
    return "Jobs that run, then those that wait in the order in which they will be handed out, then scheduled ones.";
  }
  return fn && state === "queued" ? "In the order in which they will be handed out." : "In no order. Of one function, those that wait are shown in the order in which they will be handed out.";
}

export function jobList(_, query) {
  const state = { jobs: null, next: null };
  const filters = Object.fromEntries(FILTERS.filter((key) => query.has(key)).map((key) => [key, query.get(key)]));
  const parts = Object.entries(filters).map(([key, value]) => `${key}=${value}`);
  return {
    title: "Jobs",
    nav: "jobs",
    async load(signal) {
      const look = filters.function && !filters.state ? jobsInOrder : jobPage;
      Object.assign(state, await look(parts, PAGE, query.get("after"), signal));
    },
    view() {
      return [
        h("div.page-head", null, h("h1", { tabindex: "-1" }, "Jobs")),
        filterForm(query, filters),
        h("p.muted", { key: "order", "data-value": "order" }, orderNote(filters)),
        state.jobs ? jobTable(state, filters, query) : h("p.muted", null, "Loading…"),
      ];
    },
  };
}

function filterForm(query, filters) {
  const shown = (key) => readable(query.get(key) ?? "");
  const input = (label, key, props) => h("label.field", { key }, h("span.field-label", null, label), h("input", { name: key, value: shown(key), autocomplete: "off", spellcheck: "false", ...props }));
  const submit = (event) => {
    event.preventDefault();
    const typed = Object.fromEntries(new FormData(event.target).entries());
    const wanted = {};
    for (const [key, value] of Object.entries(typed)) {
      // An unchanged value keeps its encoded form, since it may not be UTF-8.
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

function jobTable({ jobs, next }, filters, query) {
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
      { id: "handle", label: "Job", head: true, flex: true, cell: (job) => jobLink(job.handle) },
      { id: "function", label: "Function", flex: true, cell: (job) => functionLink(job.function_id, job.function) },
      { id: "state", label: "State", cell: (job) => badge(job.state) },
      { id: "priority", label: "Priority", cell: (job) => job.priority },
      { id: "unique", label: "Unique id", flex: true, cell: (job) => (job.unique === "" ? "–" : name(job.unique)) },
      { id: "age", label: "Age", number: true, cell: (job) => lasting(job.submitted_unix_ms) },
      { id: "due", label: "Due", number: true, class: "least", cell: (job) => (job.due_unix_s === null ? "–" : shortRelative(job.due_unix_s * 1000)) },
      { id: "holder", label: "Worker", cell: (job) => workerLink(job.holder) },
      { id: "progress", label: "Progress", cell: (job) => (job.progress ? progressBar(job.progress.numerator, job.progress.denominator) : "–") },
      { id: "attempts", label: "Lost", number: true, class: "less", cell: (job) => number(job.attempts) },
      { id: "clients", label: "Clients", number: true, class: "less", cell: (job) => number(job.clients) },
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
        state.endedAt ||= serverNow();
        state.ended = true;
      }
    },
    view() {
      const { job, ended } = state;
      if (!job) {
        return [h("h1", { tabindex: "-1" }, "Job ", name(handle)), ended
          ? empty("There is no such job.", "It has ended, or it never existed. Jobs that have ended are not kept. ", link("#/jobs", "See all jobs"))
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
      job.state === "scheduled" && button("Run now", () => actions.runJob(job), { id: "run-job", kind: "solid" }),
      movable && h("div.segments", { role: "group", "aria-label": "Priority", key: "priority" }, ["high", "normal", "low"].map((priority) =>
        h("button", { type: "button", key: priority, "aria-pressed": String(job.priority === priority), "data-action": `priority ${priority}`, on: { click: () => job.priority !== priority && actions.setPriority(job, priority) } }, priority))),
      movable && button("Move…", () => actions.moveJob(job), { id: "move" }),
      button("Cancel…", () => actions.cancelJob(job), { id: "cancel", kind: "danger" })));
}

// The outcomes of unsuccessful runs.
const ENDS = { timed_out: "timed out", disconnected: "lost its worker", given_back: "was given back" };

// The timeline of a job, in order: [label, unix ms or null, text, tone].
function steps(job, ended, endedAt) {
  const waits = (from, to) => (from === null || to === null ? "" : `after ${age((to - from) / 1000)}`);
  const due = job.due_unix_s === null ? null : job.due_unix_s * 1000;
  const running = job.state === "running";
  const progress = job.progress;
  const earlier = job.failed_attempts ?? [];
  const forgotten = job.attempts - earlier.length;
  return [
    ["Submitted", job.submitted_unix_ms, job.submitted_unix_ms === null ? "time not known" : relative(job.submitted_unix_ms), "past"],
    due !== null && ["Due", due, job.state === "scheduled" ? relative(due) : "", job.state === "scheduled" ? "now" : "past"],
    forgotten > 0 && ["Earlier runs", null, `${number(forgotten)} without details`, "past"],
    ...earlier.map((run, index) => [`Run ${forgotten + index + 1}`, run.since_unix_ms, `${ENDS[run.end]} after ${age((run.until_unix_ms - run.since_unix_ms) / 1000)}, on ${visible(run.client_id ?? run.address)}`, "past"]),
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
    ["Kind", job.background ? "background: independent of its client" : "foreground"],
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
    return card("Workload", null, empty("The workload cannot be shown now.", "It is only in the store, and the store did not answer in time."));
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
