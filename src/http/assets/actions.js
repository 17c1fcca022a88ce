// Operator actions, with their confirmation dialogs and messages.

import { act, functionPath, get, live, named } from "./api.js";
import { ask, field, toast, name } from "./ui.js";
import { h } from "./dom.js";
import { plural, visible } from "./format.js";

// Maximum number of names that a field suggests.
const KNOWN_MAX = 500;

let refresh = () => {};

// Sets the callback that refreshes the page after an action.
export function onAction(look) {
  refresh = look;
}

// Runs an action, shows a message and refreshes. Resolves to the answer, or to null on failure.
export async function attempt(work, done) {
  try {
    const answer = await work();
    toast(done(answer.affected ?? 0, answer));
    return answer;
  } catch (error) {
    toast(error.message, true);
    return null;
  } finally {
    refresh();
  }
}

export function mayAct() {
  return live.readOnly === false;
}

// Warning for a setting that matches nothing yet.
function forLater(affected) {
  return affected === 0 ? " Warning: nothing matches yet. It is kept until something does, or until it is undone." : "";
}

// Warning for jobs that were moved to an unknown function.
function unknownTarget(to, known) {
  return known.length > 0 && known.length < KNOWN_MAX && !known.includes(to)
    ? ` Warning: "${to}" had no jobs and no workers. The jobs wait until a worker registers it.` : "";
}

// --- functions

export function pause(fn) {
  const verb = fn.paused ? "resume" : "pause";
  return attempt(() => act("POST", functionPath(fn.id, `/${verb}`)), (affected) =>
    fn.paused ? `"${fn.name}" is resumed.` : `"${fn.name}" is paused: its jobs wait until it is resumed.${forLater(affected)}`);
}

export async function createFunction() {
  const answer = await ask({
    title: "Create a function",
    text: "A function is created with its first job or worker. Create one in advance to pause it or to set its limits.",
    fields: [field("Name", "input", { name: "name", required: true, maxlength: "512", spellcheck: "false" })],
    confirm: "Create",
    ready: ({ name: typed }) => typed !== "",
  });
  if (answer) {
    await attempt(() => act("POST", functionPath(encodeURIComponent(answer.name))), () => `"${answer.name}" is created.`);
  }
}

export async function dropFunction(fn) {
  const answer = await ask({
    title: "Forget this function?",
    text: ["The server forgets ", name(fn.name), ", its counts and its limits. This works only while it has no workers and no jobs."],
    confirm: "Forget",
    danger: true,
  });
  if (answer && (await attempt(() => act("DELETE", functionPath(fn.id)), () => `"${fn.name}" is forgotten.`))) {
    location.hash = "#/functions";
  }
}

export async function purge(fn) {
  const shown = visible(fn.name);
  const all = fn.queued.high + fn.queued.normal + fn.queued.low + fn.scheduled + fn.running;
  const answer = await ask({
    title: "Cancel all jobs?",
    text: [`${plural(all, "job")} of `, name(fn.name), " will be cancelled, running ones too. Clients that wait get a failure. This cannot be undone."],
    fields: [field("Type the function's name to confirm", "input", { name: "typed", spellcheck: "false" }, shown)],
    confirm: "Cancel all jobs",
    danger: true,
    ready: ({ typed }) => typed === shown || typed === fn.name,
  });
  if (answer) {
    await attempt(() => act("POST", functionPath(fn.id, "/cancel-jobs")), (affected) => `Cancelled ${plural(affected, "job")} of "${fn.name}".`);
  }
}

// A field for a function name, with suggestions.
function functionField(label, known) {
  return [
    field(label, "input", { name: "to", required: true, list: "known-functions", maxlength: "512", spellcheck: "false" }),
    h("datalist", { id: "known-functions", key: "known" }, known.map((other) => h("option", { key: other, value: other }))),
  ];
}

async function knownFunctions() {
  try {
    return (await get("/functions")).functions.map((fn) => fn.name).slice(0, KNOWN_MAX);
  } catch {
    return [];
  }
}

export async function moveAll(fn) {
  const known = await knownFunctions();
  const answer = await ask({
    title: "Move all jobs",
    text: ["All queued and scheduled jobs of ", name(fn.name), " go to another function. Running ones stay."],
    fields: functionField("To the function", known),
    confirm: "Move",
    ready: ({ to }) => to !== "" && to !== fn.name,
  });
  if (answer) {
    await attempt(() => act("POST", functionPath(fn.id, "/move-jobs"), { to: answer.to }), (affected) => `Moved ${plural(affected, "job")} to "${answer.to}".${unknownTarget(answer.to, known)}`);
  }
}

export async function limits(fn) {
  const [high, normal, low] = fn.max_queue;
  const input = (label, key, value, hint) => field(label, "input", { name: key, type: "number", min: "0", max: "4294967295", step: "1", value: String(value), required: true }, hint);
  const answer = await ask({
    title: "Limits",
    text: ["Of ", name(fn.name), ". 0 means no limit. With a durable queue, limits survive a restart of the server."],
    fields: [
      input("Running at once", "running", fn.max_running, "Maximum number of its jobs that run at once."),
      input("Queue for jobs of high priority", "high", high, "A job is rejected if the function has this many already."),
      input("Queue for jobs of normal priority", "normal", normal),
      input("Queue for jobs of low priority", "low", low),
    ],
    confirm: "Set limits",
    ready: (values) => Object.values(values).every((value) => /^\d{1,10}$/.test(value)),
  });
  if (answer) {
    const body = { max_running: Number(answer.running), max_queue: [Number(answer.high), Number(answer.normal), Number(answer.low)] };
    await attempt(() => act("POST", functionPath(fn.id, "/limits"), body), (affected) => `Limits of "${fn.name}" are set.${forLater(affected)}`);
  }
}

// --- jobs

const jobPath = (job, rest) => `/jobs/${encodeURIComponent(job.handle)}/${rest}`;

export async function cancelJob(job) {
  const answer = await ask({
    title: "Cancel this job?",
    text: job.state === "running"
      ? "It is running. Its clients get a failure at once; later results of its worker are ignored."
      : "It is removed. Clients that wait for it get a failure.",
    confirm: "Cancel the job",
    danger: true,
  });
  if (answer) {
    await attempt(() => act("POST", jobPath(job, "cancel")), () => `Cancelled ${job.handle}.`);
  }
}

export async function moveJob(job) {
  const known = await knownFunctions();
  const answer = await ask({
    title: "Move this job",
    text: ["It leaves ", name(job.function), " and keeps its handle."],
    fields: functionField("To the function", known),
    confirm: "Move",
    ready: ({ to }) => to !== "" && to !== job.function,
  });
  if (answer) {
    await attempt(() => act("POST", jobPath(job, "move"), { to: answer.to }), () => `Moved ${job.handle} to "${answer.to}".${unknownTarget(answer.to, known)}`);
  }
}

export function setPriority(job, priority) {
  return attempt(() => act("POST", jobPath(job, "priority"), { priority }), () => `${job.handle} has ${priority} priority now.`);
}

export function runJob(job) {
  return attempt(() => act("POST", jobPath(job, "run")), () => `${job.handle} may run now.`);
}

// The actions for a job in its state: [label, act, {danger}].
export function jobActions(job) {
  const movable = job.state !== "running";
  return [
    job.state === "scheduled" && ["Run now", () => runJob(job)],
    ...["high", "normal", "low"].map((priority) =>
      movable && job.priority !== priority && [`Priority ${priority}`, () => setPriority(job, priority)]),
    movable && ["Move…", () => moveJob(job)],
    ["Cancel…", () => cancelJob(job), { danger: true }],
  ].filter(Boolean);
}

// --- workers

// The effect of each verb on workers.
const MODES = {
  disable: "gets no more jobs until it is enabled",
  drain: "gets no new jobs and finishes what it has",
  enable: "gets jobs again",
};

// Disables, drains or enables workers. `who` is {connection}, {client} or {host}; `fn` a function or nothing.
export function setMode(verb, who, fn) {
  const [value] = Object.values(who);
  return steer(verb, value, fn ? { ...who, ...named("function", fn.id) } : who, fn?.name);
}

// The same for all workers of a client id or a host, including future ones, so it asks for confirmation.
export async function setModeOfMany(verb, who) {
  const [[kind, value]] = Object.entries(who);
  const [does, holds] = verb === "drain" ? ["Drain", "They get no new jobs, and finish those that they have."] : ["Disable", "They get no more jobs."];
  const answer = await ask({
    title: kind === "host" ? `${does} this host?` : `${does} this client id?`,
    text: [kind === "host" ? "All workers on " : "All workers with the client id ", name(value), ` are affected, and those that connect later. ${holds} This holds until they are enabled again.`],
    confirm: does,
    danger: true,
  });
  if (answer) {
    await setMode(verb, who);
  }
}

// Ends a rule that withholds jobs. A rule for all functions includes those for single ones.
export function enableRule(rule) {
  const colon = rule.who_id.indexOf(":");
  const who = named(rule.who_id.slice(0, colon), rule.who_id.slice(colon + 1));
  const body = rule.function_id === null ? who : { ...who, ...named("function", rule.function_id) };
  return steer("enable", rule.who.slice(colon + 1), body, rule.function);
}

function steer(verb, value, body, fn) {
  return attempt(() => act("POST", `/workers/${verb}`, body), (affected) =>
    `${value} ${MODES[verb]}${fn ? ` of "${fn}"` : ""} (${plural(affected, "connection")}).${verb === "enable" ? "" : forLater(affected)}`);
}

export async function kick(who, what) {
  const answer = await ask({
    title: `Kick ${what}?`,
    text: "The connection is closed. Its jobs are requeued, and count as lost once more. A worker that is started by a supervisor reconnects.",
    confirm: "Kick",
    danger: true,
  });
  if (answer) {
    await attempt(() => act("POST", "/workers/kick", who), (affected) => `Closed ${plural(affected, "connection")}.`);
  }
}

// Maximum number of rules listed in a confirmation dialog.
const NAMED_RULES = 5;

// Ends the rules that withhold jobs from a worker: its own, those of its client id and those of its host, for
// one function or for all. Asks for confirmation if that affects other workers or other functions too.
export async function enable(worker, fn) {
  let rules = [];
  try {
    ({ rules } = await get(`/workers/${encodeURIComponent(worker.id)}`));
  } catch (error) {
    toast(error.message, true);
    return;
  }
  const meant = rules.filter((rule) => !fn || rule.function_id === null || rule.function_id === fn.id);
  const whole = meant.filter((rule) => rule.function_id === null).map((rule) => rule.who_id);
  // A rule for all functions includes those for single ones.
  const removed = meant.filter((rule) => rule.function_id === null || !whole.includes(rule.who_id));
  if (removed.length === 0) {
    toast(`No rule withholds jobs${fn ? ` of "${fn.name}"` : ""} from worker ${worker.id}.`);
    refresh();
    return;
  }
  const wide = removed.filter((rule) => !rule.who.startsWith("connection:") || (fn && rule.function_id === null));
  if (wide.length > 0 && !(await ask({
    title: "Remove these rules?",
    text: `Jobs are withheld by rules that may apply to more than this: ${wide.slice(0, NAMED_RULES).map(ruleText).join(", ")}${wide.length > NAMED_RULES ? `, and ${wide.length - NAMED_RULES} more` : ""}.`,
    confirm: "Enable",
  }))) {
    return;
  }
  for (const rule of removed) {
    await enableRule(rule);
  }
}

function ruleText(rule) {
  return `${visible(rule.who)}, ${rule.function === null ? "all functions" : `"${visible(rule.function)}"`}, ${rule.mode}`;
}

// The actions for workers: a connection, a client id or a host.
export function workerActions(who, what, withoutJobs, enable = () => setMode("enable", who)) {
  return [
    withoutJobs !== false && ["Enable", enable],
    withoutJobs !== true && ["Drain", () => setMode("drain", who)],
    withoutJobs !== true && ["Disable", () => setMode("disable", who)],
    ["Kick…", () => kick(who, what), { danger: true }],
  ].filter(Boolean);
}

// Whether all jobs are withheld from a worker.
export function getsNoJobs(worker) {
  return ["disabled", "draining", "drained"].includes(worker.state);
}
