// The fleet: managed workers by host, and their monitors, according to their own reports.

import { mayAct } from "./actions.js";
import { parameter, setParameter } from "./address.js";
import { get } from "./api.js";
import { h } from "./dom.js";
import { NONE, age, bytes, number, plural, shortAge, shortDuration, visible } from "./format.js";
import * as commands from "./commands.js";
import { ago, badge, button, card, counted as counts, empty, facts, fitsFilter, jobLink, menuButton, name, redraw, searchField, table } from "./ui.js";

// Maximum number of workers shown, and of functions per worker until expanded.
const MOST = 300;
const CHIPS = 8;
// Maximum number of events shown per monitor.
const EVENTS = 12;

const STATES = ["", "working", "idle", "leaving", "silent", "outdated"];

// The workers with all functions expanded.
const unfolded = new Set();

export function fleetPage() {
  let fleet = null;
  return {
    title: "Fleet",
    nav: "fleet",
    // The server waits for workers that do not answer; the refresh interval must not grow because of that.
    steady: true,
    async load(signal) {
      fleet = await get("/fleet", signal);
    },
    view() {
      const head = h("div.page-head", null, h("h1", { tabindex: "-1" }, "Fleet"),
        fleet && fleet.workers.length > 0 && [
          searchField("Filter managed workers"),
          h("label.select", { key: "state" }, h("span.hidden", null, "State"),
            h("select", { value: parameter("state"), on: { change: (event) => { setParameter("state", event.target.value); redraw(); } } },
              STATES.map((word) => h("option", { key: word, value: word }, word === "" ? "Any state" : word)))),
        ]);
      if (!fleet) {
        return [head, h("p.muted", null, "Loading…")];
      }
      if (fleet.workers.length + fleet.monitors.length + fleet.unnamed_workers === 0) {
        return [head, explanation()];
      }
      return [head, notices(fleet), fleet.monitors.map(monitorCards), workers(fleet)];
    },
  };
}

function explanation() {
  return empty("No managed workers.",
    "A worker that is started with ", h("code.code.break", null, `gearmand work --managed --fleet-name web -s ${location.hostname} -f resize=./resize`), " is shown and controlled here. ",
    h("code.code", null, "gearmand fleet run fleet.toml"), " is the monitor that gives such workers their ids, and starts and ends them as jobs come and go.");
}

function notices({ unnamed_workers: unnamed, not_asked: left, monitors }) {
  return h("div.notices", { key: "notices" },
    unnamed > 0 && h("p.notice.info", { key: "unnamed", "data-value": "unnamed" },
      `${plural(unnamed, "worker waits", "workers wait")} for an id. `, monitors.length > 0 ? "A monitor gives each its own soon." : "A monitor gives it: gearmand fleet run."),
    left > 0 && h("p.notice.warn", { key: "left" }, `${plural(left, "more is", "more are")} connected than the server queries at a time.`));
}

// --- monitors

function monitorCards(monitor) {
  const state = monitor.silent_s !== null ? "silent" : monitor.error !== null ? "failing" : monitor.settled ? "settled" : "busy";
  return card(`Monitor of ${visible(monitor.fleet)}`, {
    "data-monitor": monitor.fleet,
    actions: [badge(state), mayAct() && button("Roll…", () => commands.roll(monitor), { id: "roll", kind: "small", title: "Replace all workers of the fleet" })],
  },
  monitor.error !== null && h("p.notice.bad", { key: "error" }, visible(monitor.error)),
  monitor.silent_s !== null && h("p.notice.warn", { key: "silent" }, `It has not answered for ${age(monitor.silent_s)}. This is its last report.`),
  monitor.unmet.length > 0 && h("ul.notice.warn.unmet", { key: "unmet" }, monitor.unmet.map((line, index) => h("li", { key: index }, visible(line)))),
  h("div.columns", { key: "about" },
    h("div", { key: "facts" }, facts([
      ["Runs on", [name(monitor.host), h("span.muted", null, ` process ${monitor.pid}`)]],
      ["Since", ago(monitor.started_unix_s * 1000)],
      ["Version of workers", monitor.version === "" ? "any" : name(monitor.version)],
      ["Workers", h("span", { "data-value": "fleet-workers" }, number(monitor.workers.length))],
      ["To be replaced", number(monitor.outdated_workers)],
      monitor.stopped_hosts.length > 0 && ["Stopped hosts", stoppedHosts(monitor)],
    ])),
    h("div", { key: "events" }, events(monitor.events))),
  monitor.functions.length > 0 && functionTable(monitor));
}

function stoppedHosts(monitor) {
  return h("span.chips", null, monitor.stopped_hosts.map((host) => h("span.fn-chip", { key: host }, name(host),
    mayAct() && h("button.close", { type: "button", "data-action": "start-host", "aria-label": `Start ${visible(host)}`, title: "Use it again", on: { click: () => commands.startHost([monitor], host) } }, "▸"))));
}

function events(list) {
  if (list.length === 0) {
    return empty("No actions yet.", "Its actions and their reasons appear here.");
  }
  return h("ol.fleet-events", null, list.slice(-EVENTS).reverse().map((event, index) => h("li", { key: `${event.at_unix_s} ${event.what} ${index}` },
    h("span.muted", null, ago(event.at_unix_s * 1000)),
    h("span.break", null, h("strong", null, visible(event.what)), event.why !== "" && ` ${visible(event.why)}`,
      event.error !== null && h("span.bad", null, ` ${visible(event.error)}`)))));
}

function functionTable(monitor) {
  const count = (id, label, title) => ({ id, label, title, number: true, value: (fn) => fn[id], cell: (fn) => number(fn[id]) });
  return table({
    id: `fleet-functions-${monitor.fleet}`,
    sort: `sort_${encodeURIComponent(monitor.fleet)}`,
    label: `Functions that the monitor of ${visible(monitor.fleet)} manages`,
    by: "function",
    down: false,
    rows: monitor.functions.map((fn) => ({ ...fn, key: fn.function })),
    columns: [
      { id: "function", label: "Function", head: true, flex: true, value: (fn) => fn.function, cell: (fn) => name(fn.function) },
      count("target", "Target", "How many workers it is to have now"),
      count("workers", "Workers"),
      count("min", "Min"),
      count("max", "Max"),
      count("waiting", "Waiting", "Jobs that wait"),
      count("running", "Running"),
      { id: "oldest", label: "Oldest", title: "Age of the oldest job that waits", number: true, value: (fn) => fn.oldest_s, cell: (fn) => shortAge(fn.oldest_s) },
    ],
  });
}

// --- workers

const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);
const counted = (counts, fn) => (Object.hasOwn(counts, fn) ? counts[fn] : 0);

function stateFits(worker) {
  const wantedState = parameter("state");
  return wantedState === "" || (wantedState === "silent" ? worker.silent_s !== null : wantedState === "outdated" ? worker.outdated : worker.silent_s === null && worker.state === wantedState);
}

function workers(fleet) {
  if (fleet.workers.length === 0) {
    return empty("No managed worker has an id yet.", "They show here as soon as they have one.");
  }
  const texts = (worker) => [worker.id, worker.fleet, worker.host, String(worker.pid), worker.language, worker.version, worker.state, ...worker.functions_in_use, ...worker.functions_not_in_use];
  const fits = fleet.workers.filter((worker) => stateFits(worker) && fitsFilter(...texts(worker)));
  if (fits.length === 0) {
    return empty("No managed worker fits.", `${plural(fleet.workers.length, "worker")} in all. Clear the filter to see them.`);
  }
  return [
    fits.length > MOST && h("p.notice.info", { key: "more" }, `These are the first ${number(MOST)} of ${number(fits.length)} workers. Filter to find others.`),
    card("Managed workers by host", { class: "bare" }, workerTable(byHost(fits.slice(0, MOST), fleet))),
  ];
}

function byHost(shown, fleet) {
  const hosts = new Map();
  for (const worker of shown) {
    if (!hosts.has(worker.host)) {
      hosts.set(worker.host, []);
    }
    hosts.get(worker.host).push({ ...worker, key: worker.id });
  }
  // Workers without a known host come last.
  return [...hosts].sort(([one], [other]) => Number(one === "") - Number(other === "") || (one < other ? -1 : 1)).map(([host, rows]) => ({ key: host, head: hostHead(host, fleet), rows }));
}

// Host actions apply to the whole host, regardless of the filter.
function hostHead(host, fleet) {
  const all = fleet.workers.filter((worker) => worker.host === host);
  const fleets = new Set(all.map((worker) => worker.fleet));
  const monitors = fleet.monitors.filter((monitor) => fleets.has(monitor.fleet));
  const running = all.reduce((sum, worker) => sum + worker.running.length, 0);
  const isStopped = monitors.some((monitor) => monitor.stopped_hosts.includes(host));
  return h("div.group-head", null,
    h("strong", null, host === "" ? h("i.muted", null, "host unknown") : name(host)),
    isStopped && h("span.badge.is-paused", { title: "No worker may run here" }, "stopped"),
    h("span.muted", null, `${plural(all.length, "worker")}, ${plural(running, "job")} running`),
    mayAct() && host !== "" && h("span.buttons.small", null, monitors.length > 0
      ? [
          isStopped && button("Start host", () => commands.startHost(monitors, host), { id: "start-host" }),
          !isStopped && button("Stop host…", () => commands.stopHost(monitors, host, all.length), { id: "stop-host", kind: "danger" }),
          monitors.length === 1 && button("Roll host…", () => commands.roll(monitors[0], host), { id: "roll-host", title: "Replace its workers" }),
        ]
      : button("Exit all…", () => commands.exitAll(host, all), { id: "exit-all", kind: "danger" })));
}

function workerTable(groups) {
  return table({
    id: "fleet",
    label: "Managed workers by host",
    by: "id",
    down: false,
    groups,
    columns: [
      { id: "id", label: "Worker", head: true, flex: true, value: (worker) => worker.id, cell: workerCell },
      { id: "state", label: "State", value: (worker) => (worker.silent_s === null ? worker.state : "silent"), cell: stateCell },
      { id: "functions", label: "Functions", flex: true, class: "chip-cell", cell: chips },
      { id: "running", label: "Running", flex: true, value: (worker) => worker.running[0]?.seconds ?? -1, cell: runningCell },
      { id: "done", label: "Done", number: true, value: (worker) => total(worker.count), cell: (worker) => counts(total(worker.count)) },
      { id: "failed", label: "Failed", number: true, value: (worker) => total(worker.failures), cell: (worker) => counts(total(worker.failures)) },
      { id: "version", label: "Version", flex: true, class: "least", value: (worker) => worker.version, cell: versionCell },
      { id: "memory", label: "Memory", number: true, value: (worker) => worker.memory_bytes, cell: (worker) => (worker.memory_bytes === 0 ? NONE : bytes(worker.memory_bytes)) },
      { id: "uptime", label: "Up", number: true, value: (worker) => worker.uptime_s, cell: (worker) => (worker.state === "unknown" ? NONE : shortAge(worker.uptime_s)) },
      { id: "actions", label: "", class: "actions", cell: (worker) => mayAct() && menuButton(`Actions for worker ${worker.id}`, () => workerActions(worker)) },
    ],
  });
}

function workerCell(worker) {
  return h("span.lines", null,
    name(worker.id, { class: "code" }),
    worker.pid > 0 && h("span.muted", { key: "pid" }, `process ${worker.pid}`),
    worker.outdated && badge("outdated"));
}

function stateCell(worker) {
  return h("span.lines", null,
    worker.silent_s === null ? badge(worker.state) : [badge("silent"), h("span.muted", { key: "since" }, `for ${shortAge(worker.silent_s)}`)],
    worker.error !== null && h("span.badge.is-failing", { key: "error", title: visible(worker.error) }, "invalid answer"));
}

function versionCell({ version, language }) {
  if (version === "" && language === "") {
    return NONE;
  }
  return h("span.lines", null, name(version), h("span.muted", { key: "language" }, name(language)));
}

function runningCell(worker) {
  const [run] = worker.running;
  if (!run) {
    return NONE;
  }
  return h("span.lines", null,
    name(run.function),
    h("span.muted", { key: "since" }, `for ${shortDuration(run.seconds)}`, worker.running.length > 1 && `, and ${number(worker.running.length - 1)} more`),
    run.handle !== "" && jobLink(run.handle));
}

// The functions of a worker, each with a button that registers or unregisters it.
function chips(worker) {
  const all = [...worker.functions_in_use.map((fn) => [fn, true]), ...worker.functions_not_in_use.map((fn) => [fn, false])];
  if (all.length === 0) {
    return NONE;
  }
  const isUnfolded = unfolded.has(worker.id);
  const shown = isUnfolded ? all : all.slice(0, CHIPS);
  const fold = () => {
    if (!unfolded.delete(worker.id)) {
      unfolded.add(worker.id);
    }
    redraw();
  };
  return h("span.chips", null,
    shown.map(([fn, inUse]) => chip(worker, fn, inUse)),
    all.length > CHIPS && h("button.button.small", { type: "button", key: "fold", "data-action": "show-more", "aria-expanded": String(isUnfolded), on: { click: fold } }, isUnfolded ? "Fewer" : `${number(all.length - CHIPS)} more`));
}

function chip(worker, fn, inUse) {
  const [verb, sign, act] = inUse ? ["unregister", "×", commands.unregister] : ["register", "+", commands.register];
  const said = `${number(counted(worker.count, fn))} done, ${number(counted(worker.failures, fn))} failed`;
  const label = `${inUse ? "Unregister" : "Register"} ${visible(fn)} at ${worker.id}`;
  return h("span.fn-chip", { key: `${inUse ? "+" : "-"}${fn}`, class: inUse ? "in-use" : "", "data-function": fn, title: inUse ? said : `Not in use; ${said}` },
    name(fn),
    !inUse && h("span.hidden", null, "not in use"),
    mayAct() && h("button.close", { type: "button", "data-action": verb, "aria-label": label, title: label, on: { click: () => act(worker, fn) } }, sign));
}

function workerActions(worker) {
  return [
    ["New worker", () => commands.newWorker(worker)],
    ["Reload", () => commands.reload(worker)],
    ["Exit…", () => commands.exit(worker), { danger: true }],
  ];
}
