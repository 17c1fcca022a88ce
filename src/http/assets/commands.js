// Commands to managed workers and monitors, with their confirmation dialogs and messages.

import { attempt } from "./actions.js";
import { act } from "./api.js";
import { plural, visible } from "./format.js";
import { ask, name } from "./ui.js";

const toWorker = (worker, verb, functions) =>
  act("POST", `/fleet/workers/${encodeURIComponent(worker.id)}`, functions === undefined ? { verb } : { verb, functions });

const toMonitor = (monitor, verb, host) =>
  act("POST", `/fleet/monitors/${encodeURIComponent(monitor.fleet)}`, host === undefined ? { verb } : { verb, host });

// --- workers

export function register(worker, fn) {
  return attempt(() => toWorker(worker, "registerFunction", [fn]), () => `${worker.id} does jobs of "${fn}".`);
}

export function unregister(worker, fn) {
  return attempt(() => toWorker(worker, "unregisterFunction", [fn]), () => `${worker.id} takes no more jobs of "${fn}".`);
}

export function newWorker(worker) {
  return attempt(() => toWorker(worker, "newWorker"), (_, { answer }) => `${worker.id} has started another worker${Number.isInteger(answer.pid) ? `, process ${answer.pid}` : ""}.`);
}

export function reload(worker) {
  return attempt(() => toWorker(worker, "reload"), () => `${worker.id} reloads its code.`);
}

export async function exit(worker) {
  const answer = await ask({
    title: "End this worker?",
    text: [name(worker.id), ` on ${visible(worker.host)} finishes the job that it runs, and ends. A monitor or a supervisor may start another.`],
    confirm: "End the worker",
    danger: true,
  });
  if (answer) {
    await attempt(() => toWorker(worker, "exitWorker"), () => `${worker.id} ends after its job.`);
  }
}

export async function exitAll(host, workers) {
  const answer = await ask({
    title: `End ${plural(workers.length, "worker")}?`,
    text: ["All managed workers on ", name(host), " finish the jobs that they run, and end. This fleet has no monitor that would start others."],
    confirm: `End ${plural(workers.length, "worker")}`,
    danger: true,
  });
  if (!answer) {
    return;
  }
  await attempt(async () => {
    const results = await Promise.allSettled(workers.map((worker) => toWorker(worker, "exitWorker")));
    const failed = results.filter((result) => result.status === "rejected");
    if (failed.length > 0) {
      throw new Error(`${failed.length} of ${plural(workers.length, "worker")} did not accept the command: ${failed[0].reason.message}`);
    }
    return {};
  }, () => `${plural(workers.length, "worker")} on "${host}" will end.`);
}

// --- monitors

export async function stopHost(monitors, host, count) {
  const answer = await ask({
    title: "Stop this host?",
    text: [`${plural(count, "worker")} on `, name(host), " end after their jobs, and no others are started there until it is started again."],
    confirm: "Stop the host",
    danger: true,
  });
  if (answer) {
    await each(monitors, "stop", host, `The workers on "${host}" end.`);
  }
}

export function startHost(monitors, host) {
  return each(monitors, "start", host, `"${host}" is used again.`);
}

export async function roll(monitor, host) {
  const answer = await ask({
    title: host === undefined ? "Replace all workers?" : "Replace the workers of this host?",
    text: ["The monitor of ", name(monitor.fleet), " replaces ", host === undefined ? "all workers of its fleet" : "those on ", host !== undefined && name(host), ", some at a time. Each finishes the job that it runs."].filter(Boolean),
    confirm: "Replace",
    danger: true,
  });
  if (answer) {
    await attempt(() => toMonitor(monitor, "roll", host), () => `Workers of "${monitor.fleet}" are being replaced.`);
  }
}

function each(monitors, verb, host, done) {
  return attempt(async () => {
    for (const monitor of monitors) {
      await toMonitor(monitor, verb, host);
    }
    return {};
  }, () => done);
}
