// The page that submits a job and shows its progress and result.

import { readable } from "./address.js";
import { actStreaming, act, get } from "./api.js";
import { h } from "./dom.js";
import { time, visible } from "./format.js";
import { shownAs } from "./preview.js";
import { button, card, empty, field, jobLink, name, progressBar, redraw, toast } from "./ui.js";
import { mayAct } from "./actions.js";

// Maximum number of events kept, since a worker may send data endlessly.
const MOST_EVENTS = 200;
const MOST_SHOWN = 65_536;

export function submitPage(_, query) {
  const state = { known: [], events: [], handle: null, progress: null, busy: null, told: "" };
  return {
    title: "Submit a job",
    nav: "submit",
    async load(signal) {
      state.known = (await get("/functions", signal)).functions.map((fn) => fn.name).slice(0, 500);
    },
    view() {
      const head = h("div.page-head", null, h("h1", { tabindex: "-1" }, "Submit a job"));
      if (!mayAct()) {
        return [head, empty("This server is read-only here.", "Jobs are submitted by Gearman clients.")];
      }
      return [head, h("div.columns", { key: "submit" }, formCard(state, query), resultCard(state))];
    },
    leave() {
      state.busy?.abort();
    },
  };
}

function formCard(state, query) {
  return card("Job", null, h("form.form", { on: { submit: (event) => { event.preventDefault(); send(state, new FormData(event.target)); } } },
    field("Function", "input", { name: "function", required: true, maxlength: "512", list: "submit-functions", value: readable(query.get("function")), spellcheck: "false", "data-filter": "" }),
    h("datalist", { id: "submit-functions", key: "known" }, state.known.map((known) => h("option", { key: known, value: known }))),
    field("Workload", "textarea", { name: "workload", rows: "7", spellcheck: "false" }, "Sent as UTF-8."),
    field("Unique id", "input", { name: "unique", maxlength: "64", spellcheck: "false" }, "Optional. Jobs with the same unique id are coalesced."),
    h("div.pair", { key: "pair" },
      field("Priority", "select", { name: "priority", value: "normal" }, null, ["high", "normal", "low"].map((word) => h("option", { key: word, value: word }, word))),
      field("Not before", "input", { name: "due", type: "datetime-local" }, "Optional; for a job in the background.")),
    h("label.check", { key: "background" }, h("input", { type: "checkbox", name: "background" }), " In the background: do not wait for the result"),
    h("div.buttons", { key: "buttons" },
      h("button.button.solid", { type: "submit", "data-action": "submit", disabled: state.busy !== null }, "Submit"),
      state.busy !== null && button("Stop waiting", () => state.busy?.abort(), { id: "stop" }))));
}

async function send(state, form) {
  const body = { function: form.get("function"), workload: form.get("workload"), priority: form.get("priority") };
  if (form.get("unique")) {
    body.unique = form.get("unique");
  }
  const due = form.get("due");
  if (due) {
    body.due_unix_s = Math.floor(new Date(due).getTime() / 1000);
  }
  body.background = form.get("background") !== null || Boolean(due);
  Object.assign(state, { events: [], handle: null, progress: null, busy: new AbortController(), told: body.function });
  redraw();
  try {
    if (body.background) {
      const { handle } = await act("POST", "/jobs", body);
      state.handle = handle;
      note(state, "created", `It is in the queue as ${handle}.`);
    } else {
      await actStreaming("/jobs", body, state.busy.signal, (event, data) => take(state, event, data));
    }
  } catch (error) {
    if (error.name === "AbortError") {
      note(state, "stopped", "No longer waiting. The job is abandoned if nobody else waits for it.");
    } else {
      note(state, "refused", error.message);
      toast(error.message, true);
    }
  }
  state.busy = null;
  redraw();
}

function note(state, kind, text) {
  state.events.push({ key: state.events.length ? state.events.at(-1).key + 1 : 0, at: Date.now(), kind, text });
  if (state.events.length > MOST_EVENTS) {
    state.events.shift();
  }
  redraw();
}

// The text of an event; binary data as a hex dump.
function textOf({ data, data_base64: encoded, message }) {
  if (typeof encoded === "string") {
    return shownAs({ content: encoded, encoding: "base64" }, "hex");
  }
  return data ?? message ?? "";
}

function take(state, kind, data) {
  if (kind === "created") {
    state.handle = data.handle;
    note(state, kind, `It is ${data.handle}.`);
  } else if (kind === "status") {
    state.progress = data;
    redraw();
  } else {
    note(state, kind, textOf(data).slice(0, MOST_SHOWN));
  }
}

// Whether a worker has started the job.
function isAtWork({ events, progress }) {
  return progress !== null || events.some((event) => event.kind !== "created");
}

function resultCard(state) {
  const { progress } = state;
  if (state.events.length === 0 && state.busy === null) {
    return card("Result", null, empty("Nothing submitted yet.", "Results of the worker appear here as they arrive: data, warnings, progress and the result."));
  }
  return card("Result", { "aria-live": "polite" },
    h("p", { key: "about" }, name(state.told), state.handle && [" as ", jobLink(state.handle)]),
    progress && h("p", { key: "progress" }, progressBar(progress.numerator, progress.denominator)),
    h("ol.events", { key: "events" }, state.events.map((event) => h("li", { key: event.key, class: `event-${event.kind}` },
      h("span.event-kind", null, event.kind), h("time.muted", null, time(event.at)),
      event.text !== "" && h("pre", null, h("bdi", null, visible(event.text, true)))))),
    state.busy !== null && h("p.muted", { key: "busy", "data-value": "busy" }, isAtWork(state) ? "A worker has it…" : "Waiting for a worker…"));
}
