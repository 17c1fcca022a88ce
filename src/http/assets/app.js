// The frame around the pages: navigation, connection state, theme and keyboard.

import { onAction } from "./actions.js";
import { address } from "./address.js";
import { ApiError, follow, live, onTokenNeeded, reconnect } from "./api.js";
import { h, render } from "./dom.js";
import { fleetPage } from "./fleet.js";
import { brief, time } from "./format.js";
import { functionList, oneFunction } from "./functions.js";
import { jobList, oneJob } from "./jobs.js";
import { overview } from "./overview.js";
import { serverPage } from "./server.js";
import { submitPage } from "./submit.js";
import { ask, field, onChange, tell, toast } from "./ui.js";
import { oneWorker, workerList } from "./workers.js";

const LOOK_AGAIN_MS = 2000;
// After a slow refresh, the pause is this many times its duration.
const REST = 8;
const TICK_MS = 1000;
const THEME = "gearmand-theme";

const ROUTES = [
  [/^\/?$/, overview],
  [/^\/functions$/, functionList],
  [/^\/functions\/([^/]*)$/, oneFunction],
  [/^\/workers$/, workerList],
  [/^\/workers\/([^/]*)$/, oneWorker],
  [/^\/fleet$/, fleetPage],
  [/^\/jobs$/, jobList],
  [/^\/jobs\/([^/]*)$/, oneJob],
  [/^\/server$/, serverPage],
  [/^\/submit$/, submitPage],
];

const NAVIGATION = [
  ["overview", "Overview", "#/", "o"],
  ["functions", "Functions", "#/functions", "f"],
  ["workers", "Workers", "#/workers", "w"],
  ["fleet", "Fleet", "#/fleet", "m"],
  ["jobs", "Jobs", "#/jobs", "j"],
  ["server", "Server", "#/server", "s"],
  ["submit", "Submit a job", "#/submit", "n"],
];

// --- the current page

let page = null;
let visit = 0;
let looking = null;
let timer = 0;
let failure = null;

function missingPage() {
  return { title: "Not found", nav: "", load: async () => {}, view: () => [h("h1", { tabindex: "-1" }, "There is no such page"), h("p", null, h("a", { href: "#/" }, "Go to the overview"))] };
}

function open() {
  const { path, query } = address();
  const first = page === null;
  page?.leave?.();
  visit += 1;
  failure = null;
  for (const [pattern, make] of [...ROUTES, [/^/, missingPage]]) {
    const match = pattern.exec(path);
    if (match) {
      page = make(match.slice(1), query);
      break;
    }
  }
  page.refresh = look;
  closeNavigation();
  draw();
  window.scrollTo(0, 0);
  if (!first) {
    document.querySelector("#main h1")?.focus({ preventScroll: true });
  }
  look();
}

// Loads the data of the page, and repeats that at intervals while the page is visible.
async function look() {
  looking?.abort();
  clearTimeout(timer);
  if (document.hidden) {
    return;
  }
  const mine = new AbortController();
  const began = performance.now();
  looking = mine;
  try {
    await page.load(mine.signal);
    failure = null;
  } catch (error) {
    if (mine.signal.aborted) {
      return;
    }
    // An unreachable server is shown by the banner.
    failure = error instanceof ApiError ? (error.code === "unreachable" ? null : error.message) : "The server's answer could not be read.";
  }
  if (looking === mine) {
    draw();
    timer = setTimeout(look, page.steady ? LOOK_AGAIN_MS : Math.max(LOOK_AGAIN_MS, REST * (performance.now() - began)));
  }
}

let drawn = 0;

function draw() {
  drawn = performance.now();
  const content = page.view();
  render(document.getElementById("main"), [h("div.page", { key: `visit ${visit}` },
    failure && h("p.notice.bad", { role: "alert", key: "failure" }, failure), content)]);
  document.title = `${page.title} · ${serverName()}`;
  drawFrame();
}

// --- the frame

const COUNTS = {
  functions: (server) => server.functions,
  workers: (server) => Object.values(server.workers).reduce((sum, count) => sum + count, 0),
  fleet: (server) => server.fleet.workers + server.fleet.unnamed_workers,
  jobs: (server) => server.jobs.queued + server.jobs.scheduled + server.jobs.running,
};

// Identifies the server in the window title, since several may be open side by side.
function serverName() {
  return live.hostName ? `${live.hostName} (${location.host})` : location.host;
}

// The fleet page is hidden if the server has no fleet.
function isOffered(id) {
  const fleet = live.server?.fleet;
  return id !== "fleet" || page.nav === "fleet" || (fleet && fleet.workers + fleet.unnamed_workers + fleet.monitors > 0);
}

function drawFrame() {
  const { server } = live;
  render(document.getElementById("navigation"), NAVIGATION.filter(([id]) => isOffered(id)).map(([id, label, href]) =>
    h("a", { key: id, href, "aria-current": page.nav === id ? "page" : undefined, "data-nav": id }, label,
      server && COUNTS[id] && h("span.nav-count", null, brief(COUNTS[id](server))))));
  const gearman = live.addresses.join(", ");
  render(document.getElementById("identity"), [
    h("strong.name", { key: "name", title: live.hostName }, live.hostName ?? location.hostname),
    h("span.name.muted", { key: "address", "data-value": "address", title: `Gearman on ${gearman || "an address that is not known yet"}; this page from ${location.host}` }, gearman || location.host),
  ]);
  const words = { live: "Live", asleep: "Paused", connecting: "Connecting…", lost: "Not connected" };
  render(document.getElementById("connection"), [
    h("span.lamp", { class: `lamp-${live.state}`, "aria-hidden": "true" }),
    h("span", null, words[live.state]),
    server && h("span.muted", { key: "version" }, server.version),
    live.readOnly === true && h("span.badge", { key: "read-only", title: "Nothing can be changed here" }, "read-only"),
  ]);
  const lost = live.state === "lost";
  render(document.getElementById("banner"), lost
    ? [h("div.banner-inner", { role: "alert" },
        h("span", null, "The connection to the server is lost.", live.at > 0 ? ` Numbers are of ${time(live.at)}.` : "", " Trying again…"),
        h("button.button", { type: "button", on: { click: reconnect } }, "Try now"))]
    : []);
  document.body.classList.toggle("is-lost", lost);
}

let wasLost = false;

function whenLive() {
  if (wasLost && live.state === "live") {
    look();
    toast("Connected again.");
  }
  wasLost = live.state === "lost" || (wasLost && live.state !== "live");
  draw();
}

function closeNavigation() {
  document.getElementById("sidebar").classList.remove("is-open");
  document.getElementById("nav-toggle").setAttribute("aria-expanded", "false");
}

function toggleNavigation() {
  const isOpen = document.getElementById("sidebar").classList.toggle("is-open");
  document.getElementById("nav-toggle").setAttribute("aria-expanded", String(isOpen));
}

// --- theme

function isDark() {
  return (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
}

function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // Without storage it applies to this page only.
  }
  nameTheme();
}

function nameTheme() {
  const toggle = document.getElementById("theme-toggle");
  const label = isDark() ? "Light theme" : "Dark theme";
  toggle.setAttribute("aria-label", label);
  toggle.title = `${label} (t)`;
}

// --- keyboard

function showShortcuts() {
  const rows = [
    ["/", "Go to the filter"],
    ...NAVIGATION.map(([, label, , key]) => [`g ${key}`, label]),
    ["t", "Change the theme"],
    ["r", "Refresh"],
    ["?", "Show this"],
    ["Esc", "Close a dialog or a menu; clear and leave the filter"],
    ["← →", "Move through the focused chart"],
  ];
  tell("Keyboard shortcuts", h("dl.shortcuts", null, rows.map(([keys, what]) =>
    h("div", { key: keys }, h("dt", null, keys.split(" ").map((key) => h("kbd", { key }, key))), h("dd", null, what)))));
}

// Escape clears a live filter; other fields keep their text.
function leaveField(element) {
  if (element.matches("[data-live]") && element.value !== "") {
    element.value = "";
    element.dispatchEvent(new Event("input", { bubbles: true }));
  }
  element.blur();
}

const PREFIX_MS = 1500;
let prefix = -PREFIX_MS;

function onKey(event) {
  const typing = event.target instanceof Element && event.target.matches("input, textarea, select, [contenteditable]");
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open], .menu")) {
    return;
  }
  if (typing) {
    if (event.key === "Escape") {
      // A browser would clear a search field without an input event, and the list would stay filtered.
      event.preventDefault();
      leaveField(event.target);
    }
    return;
  }
  if (performance.now() - prefix < PREFIX_MS) {
    prefix = -PREFIX_MS;
    const target = NAVIGATION.find(([, , , key]) => key === event.key);
    if (target) {
      location.hash = target[2];
      return;
    }
  }
  const act = {
    "/": () => document.querySelector("[data-filter]")?.focus(),
    "?": showShortcuts,
    g: () => { prefix = performance.now(); },
    t: toggleTheme,
    r: look,
    Escape: closeNavigation,
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
}

// --- startup

let asking = null;

// Several actions may need the token at the same time; they share one dialog.
function askForToken(wrong) {
  asking ??= ask({
    title: "Token",
    text: wrong ? "The server does not accept this token. Try another one." : "Actions on this server need a token. It is kept until this tab is closed.",
    fields: [field("Token", "input", { name: "token", type: "password", required: true, autocomplete: "off" })],
    confirm: "Use token",
    ready: ({ token }) => token !== "",
  }).then((answer) => answer?.token.trim() ?? null).finally(() => { asking = null; });
  return asking;
}

onChange(draw);
onAction(look);
onTokenNeeded(askForToken);
document.getElementById("nav-toggle").addEventListener("click", toggleNavigation);
document.getElementById("theme-toggle").addEventListener("click", toggleTheme);
document.getElementById("shortcuts").addEventListener("click", showShortcuts);
document.getElementById("skip").addEventListener("click", (event) => {
  // The hash identifies the page.
  event.preventDefault();
  document.getElementById("main").focus();
});
document.addEventListener("keydown", onKey);
document.addEventListener("visibilitychange", () => !document.hidden && look());
window.addEventListener("hashchange", open);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();
open();
follow(whenLive);
// Redraws relative times even without new data.
setInterval(() => !document.hidden && performance.now() - drawn > TICK_MS / 2 && draw(), TICK_MS);
